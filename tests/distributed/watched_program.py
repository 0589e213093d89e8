"""Run on every rank: trains a little loop of its own under the watchdog, and one rank goes astray.

usage: watched_program.py SCENARIO FOLDER; the last rank is the one that SCENARIO is for.
"""

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from detengine.cli import main
from detengine.distributed import comm, failure, watchdog
from detengine.distributed.launch import start_distributed, stop_distributed
from detengine.engine.phase import position_of
from detengine.monitor.logs import logging_to

SCENARIO, FOLDER = sys.argv[1], Path(sys.argv[2])
MINUTES = {"stalled": 0.5 / 60, "slow": 0.5 / 60, "unequal": 0.5 / 60}.get(SCENARIO)
watchdog.TICK_SECONDS, watchdog.GRACE_SECONDS, watchdog.ANSWER_SECONDS = 0.1, 0.3, 2.0
failure.ANSWER_SECONDS = 1.0


class Loader:
    """Six batches; in the fourth the last rank goes astray."""

    dataset = ("any",)

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Any:
        for number in range(6):
            if number == 3 and comm.get_rank() == comm.get_world_size() - 1:
                go_astray()
            if SCENARIO == "slow":
                time.sleep(0.3)
            yield number


def go_astray() -> None:
    if SCENARIO == "raises":
        raise ValueError("the fourth batch is bad")
    if SCENARIO == "unforeseen":
        raise KeyError("unforeseen")
    if SCENARIO == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if SCENARIO == "stalled":
        time.sleep(60)


def train() -> None:
    start_distributed("cpu")
    with logging_to(FOLDER), watchdog.watched(MINUTES, position_of) as dog:
        loader = dog.batches(Loader())
        assert (len(loader), loader.dataset) == (6, ("any",))
        for number in loader:
            if SCENARIO == "alike" and number == 3:
                raise ValueError("all ranks say so")
            if SCENARIO != "unequal":
                comm.all_gather(number)
        if SCENARIO == "unequal":
            last = comm.get_rank() == comm.get_world_size() - 1
            for _ in dog.batches(range(6 if last else 0)):  # the others wait, and rightly so
                time.sleep(0.3)
            comm.synchronize()
        logging.getLogger("detengine").warning("done")
    stop_distributed()


# What the command line does with an error is part of the claim.
main.app = lambda _arguments: train()
main.main()

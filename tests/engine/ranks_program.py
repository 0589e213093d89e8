"""Run by torchrun on every rank: one rank asks to stop, one cannot go on.

usage: torchrun ... ranks_program.py FOLDER
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from detengine.distributed import comm
from detengine.distributed.launch import start_distributed, stop_distributed
from detengine.engine import stopping
from detengine.engine.inference import interruptible
from detengine.engine.stopping import StopAgreement, StopRequestedError

ASKED_AFTER = 20
stopping.EXCHANGE_SECONDS = 0.2


def steps_until_stopped(rank: int) -> tuple[int, int]:
    """How many steps of unequal length this rank made, and how often it talked with the other."""
    step = exchanges = 0
    agreement = StopAgreement(lambda: rank == 1 and step >= ASKED_AFTER)
    while True:
        step += 1
        time.sleep(0.01 * (rank + 1))
        stop = agreement.after_step()
        exchanges += agreement._steps == 0
        if stop:
            return step, exchanges


def problem_of(rank: int) -> str:
    problem = OSError("the disk is full") if rank == 0 else None
    try:
        StopAgreement(None, lambda: problem).after_step()
    except (OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def batches_until_given_up(rank: int) -> list[int]:
    """What came of a loader whose length differs by a batch, and of one where rank 1 asks."""
    loaders: list[Any] = [[None] * (3 + rank), [None] * (3 + rank)]
    given_up = []
    for loader, wish in zip(loaders, (False, rank == 1), strict=True):
        try:
            for _ in interruptible(loader, lambda wish=wish: wish):
                pass
            given_up.append(0)
        except StopRequestedError:
            given_up.append(1)
    return [1 - given_up[0], given_up[1]]


start_distributed("cpu")
rank = comm.get_rank()
stopped_after, exchanges = steps_until_stopped(rank)
seen = {
    "asked_after": ASKED_AFTER,
    "stopped_after": stopped_after,
    "exchanges": exchanges,
    "problem": problem_of(rank),
    "batches": batches_until_given_up(rank),
}
(Path(sys.argv[1]) / f"rank{rank}.json").write_text(json.dumps(seen))
stop_distributed()

"""Stopping on request: who asks for it, and how all ranks do it after the same step."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

from detengine.data.workers import REQUESTS
from detengine.distributed.comm import all_gather, get_rank, is_distributed
from detengine.distributed.report import PeerFailedError

logger = logging.getLogger("detengine.trainer")

EXCHANGE_SECONDS = 5.0
"""How far apart the ranks' exchanges are meant to be."""


class StopRequestedError(Exception):
    """A piece of work was given up, on all ranks alike, because the run is to stop."""


@contextmanager
def stop_on_request(time_limit_minutes: float | None = None) -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether this process is to stop.

    It is after SIGINT, SIGTERM, SIGHUP (its terminal is gone) or SIGUSR1 during the block, or when
    the time limit is over. A signal is only noted; a second SIGINT interrupts at once, as it always
    did. Under nohup SIGHUP stays ignored. Outside the main thread, where Python cannot receive
    signals, there is the time limit alone.
    """
    request = _Request(time_limit_minutes)
    if threading.current_thread() is not threading.main_thread():
        yield request.is_made
        return
    before = {number: signal.getsignal(number) for number in REQUESTS}
    before = {
        number: handler
        for number, handler in before.items()
        if handler != signal.SIG_IGN or number.name != "SIGHUP"
    }
    owner = os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked process: a terminal's Ctrl-C reaches it too
            return
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])
        request.make(signal.Signals(number).name)

    for number in before:
        signal.signal(number, note)
    try:
        yield request.is_made
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Request:
    """Whether somebody, or the clock, has asked to stop; the first reason is said."""

    def __init__(self, time_limit_minutes: float | None) -> None:
        minutes = float("inf") if time_limit_minutes is None else time_limit_minutes
        self._deadline = time.monotonic() + 60 * minutes
        self._limit = f"the time limit of {minutes:g} minutes is over"
        self._made = threading.Event()

    def make(self, reason: str) -> None:
        if not self._made.is_set():
            self._made.set()
            logger.info("%s: stopping after this step, to be resumed", reason)

    def is_made(self) -> bool:
        if not self._made.is_set() and time.monotonic() >= self._deadline:
            self.make(self._limit)
        return self._made.is_set()


class Status(NamedTuple):
    """What a rank has to tell the others. problem: "" if there is none. seconds: of one step."""

    stop: bool
    problem: str
    seconds: float


class StopAgreement:
    """Whether all ranks stop after this step: one of them wants to, or cannot go on.

    wish: this rank's own, None where no rank has any. problem: what went wrong on this rank beside
    the loop, such as a checkpoint's writing in the background.
    A single process learns of both at once. Several exchange their `Status`: at the log line, where
    it rides in the meters' own collective, and every n steps, n being agreed on in each exchange so
    that the next is about EXCHANGE_SECONDS away. The exchange goes over the host and waits for no
    device.
    """

    def __init__(
        self,
        wish: Callable[[], bool] | None = None,
        problem: Callable[[], Exception | None] | None = None,
    ) -> None:
        self._wish = wish
        self._problem = problem
        self._wanted = False
        self._steps, self._steps_between = 0, 1
        self._since, self._seconds = time.perf_counter(), 0.0

    def after_step(self) -> bool:
        """Whether to stop now, alike on all ranks, which all call it after each step.

        Raises the problem of this rank, or a PeerFailedError that tells that of another.
        """
        self._steps += 1
        self._wanted = self._wanted or (self._wish is not None and self._wish())
        if not is_distributed():
            problem = None if self._problem is None else self._problem()
            if problem is not None:
                raise problem
            return self._wanted
        if self._steps < self._steps_between:
            return False
        return self.settle(all_gather(self.status()))

    def status(self) -> Status:
        """This rank's, since the last exchange."""
        problem = None if self._problem is None else self._problem()
        if self._steps:  # none where a log line follows an exchange at once
            self._seconds = (time.perf_counter() - self._since) / self._steps
        return Status(self._wanted, "" if problem is None else str(problem), self._seconds)

    def settle(self, statuses: Sequence[Status]) -> bool:
        """Act on what all ranks told. Raises as `after_step`."""
        slowest = max(status.seconds for status in statuses)
        self._steps, self._steps_between = 0, max(1, int(EXCHANGE_SECONDS / max(slowest, 1e-6)))
        self._since = time.perf_counter()
        for rank, status in enumerate(statuses):
            if status.problem:
                own = self._problem() if self._problem is not None and rank == get_rank() else None
                raise own or PeerFailedError(f"rank {rank} cannot go on: {status.problem}")
        return any(status.stop for status in statuses)

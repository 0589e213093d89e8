"""Work beside the training, whose failure is kept until somebody asks for it."""

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from detengine.distributed.out_of_memory import start_thread

_logger = logging.getLogger("detengine.checkpoint")

T = TypeVar("T")


class BackgroundWork:
    """One piece of work at a time, here or in a thread, which ends before the interpreter does.

    problem: what the last work failed with, until it is taken. No thread is left when the work is
    done, so that processes can be forked.
    """

    def __init__(self) -> None:
        self.problem: Exception | None = None
        self._thread: threading.Thread | None = None

    def attempt(self, work: Callable[[], T]) -> T | None:
        """Do the work here and now, and give its result; None if it failed."""
        try:
            return work()
        except Exception as error:  # raised by whoever takes it
            self.problem = error
            return None

    def start(self, work: Callable[[], None]) -> None:
        """Do the work in a thread, after the one before."""
        self.join()
        thread = threading.Thread(target=self._beside, args=(work,), name="checkpoint")
        start_thread(thread)
        self._thread = thread

    def join(self) -> None:
        """Wait for the work; raises nothing."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def take_problem(self) -> Exception | None:
        """What the work failed with, if it did; from now on it counts as told."""
        problem, self.problem = self.problem, None
        return problem

    def _beside(self, work: Callable[[], None]) -> None:
        self.attempt(work)
        if self.problem is not None:
            _logger.error("%s", self.problem)  # it may be long until somebody asks

"""Ctrl-C and SIGTERM as a request that training honours between two iterations."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger("detengine.trainer")


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether SIGINT or SIGTERM came during the block.

    The first signal is only noted; a second one acts as it always did. Outside the main thread,
    where Python cannot receive signals, the answer is always no.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested.is_set
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    owner = os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a loader's worker: Ctrl-C reaches it too, but it goes on reading
            return
        requested.set()
        for each, handler in before.items():
            signal.signal(each, handler)
        logger.info(
            "%s: stopping after this iteration (a second one stops at once)",
            signal.Signals(number).name,
        )

    for number in before:
        signal.signal(number, note)
    try:
        yield requested.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

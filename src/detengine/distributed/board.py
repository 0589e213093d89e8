"""What ranks tell each other while their group may be stuck: notices in the store they met in."""

import json
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch.distributed as dist

from detengine.distributed.out_of_memory import start_thread

T = TypeVar("T")

ANSWER_SECONDS = 20.0
"""How long the store may take to answer: a process that was frozen for a moment is not gone."""
_CONNECTING_SECONDS = 5.0
_PAUSE_SECONDS = 0.05


class Store(Protocol):
    """Of torch.distributed's stores, what a board needs. All may raise a DistError."""

    def append(self, key: str, value: str, /) -> None: ...
    def add(self, key: str, amount: int, /) -> int: ...
    def check(self, keys: list[str], /) -> bool: ...
    def get(self, key: str, /) -> bytes: ...


class NoticeBoard:
    """One rank's view of the board: it posts under its own name, and reads everybody's.

    The store is torchrun's, or rank 0's. Nothing here waits for another rank for longer than it is
    told to. is_gone: the store no longer answers, which is how the end of the process that keeps
    it shows, or this rank has taken its leave; then nothing is posted, and nothing is read.
    is_silent: it is gone because it gave no answer; of a process that ended, the system says so.
    """

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.is_gone = self.is_silent = False
        self._store = store
        self._asking = threading.Lock()  # so that no request is on its way when the last one goes

    def post(self, topic: str, text: str) -> None:
        """Add a notice of this rank, and let the others hear that there is one."""
        self._append(topic, text)
        self._ask(lambda: self._store.add("bell", 1))

    def post_last(self, topic: str) -> None:
        """Add a notice without text, and be gone: who reads it may close the store at once.

        No bell is rung, because a bell is answered, and torch prints a warning of its own where the
        store goes before the answer comes.
        """
        self._append(topic, "", is_last=True)

    def rings(self) -> int:
        """How many notices were posted so far, by anybody: one small request."""
        return self._ask(lambda: self._store.add("bell", 0)) or 0

    def read(self, topic: str) -> dict[int, str]:
        """Each rank's last notice of a topic, in the order of their first ones."""
        written = self._ask(lambda: self._store.check([topic]) and self._store.get(topic)) or b""
        return dict(json.loads(line) for line in written.splitlines())

    def wait(self, topic: str, ranks: int, seconds: float) -> dict[int, str]:
        """As `read`, when so many ranks have posted or the seconds are over."""
        deadline = time.monotonic() + seconds
        while len(found := self.read(topic)) < ranks:
            if self.is_gone or time.monotonic() >= deadline:
                break
            time.sleep(_PAUSE_SECONDS)
        return found

    def _append(self, topic: str, text: str, *, is_last: bool = False) -> None:
        line = json.dumps([self.rank, text]) + "\n"
        self._ask(lambda: self._store.append(topic, line), is_last=is_last)

    def _ask(self, question: Callable[[], T], *, is_last: bool = False) -> T | None:
        """The store's answer, or None where it is gone."""
        with self._asking:
            if self.is_gone:
                return None
            answers = self._asked(question)
            self.is_gone = is_last or not answers
            return answers[0] if answers else None

    def _asked(self, question: Callable[[], T]) -> list[T]:
        """The answer, if there is one.

        Asked in a thread, because a request to a machine that is off returns after a quarter of an
        hour. Where there is no memory for a thread it is asked here, so that a rank can still say
        that.
        """
        answers: list[T] = []

        def ask() -> None:
            try:
                answers.append(question())
            except RuntimeError:  # dist.DistError is one; seen below, where there is no answer
                return

        asking = threading.Thread(target=ask, name="notice board", daemon=True)
        try:
            start_thread(asking)
        except (RuntimeError, MemoryError):
            ask()
        else:
            _join(asking, ANSWER_SECONDS)
            self.is_silent = asking.is_alive()
        return answers


def _join(thread: threading.Thread, seconds: float) -> None:
    """Wait for it for so long; what this process was suspended for does not count."""
    waited, before = 0.0, time.monotonic()
    while thread.is_alive() and waited < seconds:
        thread.join(_PAUSE_SECONDS)
        now = time.monotonic()
        waited += min(now - before, 2 * _PAUSE_SECONDS)
        before = now


def open_board(topic: str, rank: int, world_size: int) -> NoticeBoard | None:
    """A board in the store of MASTER_ADDR and MASTER_PORT; None where nothing answers there.

    topic: what the board is for, in one attempt of torchrun's; two of a kind need two names.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]  # exported where torch has it
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=_CONNECTING_SECONDS),
        )
    except (KeyError, ValueError, RuntimeError):  # dist.DistError is a RuntimeError
        return None
    name = f"detengine/{attempt}/{topic}"
    prefixed: Any = dist.PrefixStore(name, store)  # type: ignore[attr-defined]
    return NoticeBoard(prefixed, rank, world_size)

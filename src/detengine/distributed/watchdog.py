"""A thread beside the run, which hears what its main thread cannot: a peer's failure, a standstill.

The main thread of a run that hangs sits in C code and raises nothing, so that it is the watchdog
that ends the process.
"""

import json
import logging
import multiprocessing
import os
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn, TypeVar, cast

from detengine.distributed import comm
from detengine.distributed.board import NoticeBoard, open_board
from detengine.distributed.failure import (
    FILE_ONLY,
    fail_together,
    failure_of_another,
    is_echo,
    leave,
    loss_before_the_board,
    loss_of_the_store,
)
from detengine.distributed.out_of_memory import start_thread
from detengine.distributed.report import PeerFailedError, say, tell_launcher
from detengine.distributed.standstill import Position, Standing, describe_standstill

logger = logging.getLogger("detengine.distributed")

LoaderT = TypeVar("LoaderT", bound=Iterable[Any])

TICK_SECONDS = 1.0
ANSWER_SECONDS = 10.0
"""How long a rank may take to say where it stands."""
GRACE_SECONDS = 2.0
"""How long the main thread may take to end by itself, once a peer has failed."""
WRITING_SECONDS = 10.0
"""How long a checkpoint may still be written before the process is ended."""


@contextmanager
def watched(
    timeout_minutes: float | None, position_of: Callable[[FrameType], Position]
) -> Iterator["Watchdog"]:
    """A block that all ranks leave together, whatever happens to one of them; called by all ranks.

    A rank's error is posted, and ends the others within seconds. Where nothing has gone on for the
    timeout on any rank, each logs where it stands with the stack of every thread, one sentence says
    who waits for whom, and all processes end with exit code 1. None: no such limit.
    position_of: what a thread does, by its innermost frame.
    Raises PeerFailedError in the place of what a collective raises when another rank is lost.
    """
    board = _group_board()
    watchdog = Watchdog(board, timeout_minutes, position_of)
    watchdog.start()
    try:
        yield watchdog
        watchdog.expect_the_end()
        comm.synchronize()
    except BaseException as error:
        watchdog.take_the_end()
        if board is None:
            raise
        final = fail_together(board, error)
        if final is error:
            raise
        raise final from error
    else:
        if board is not None:
            leave(board)
    finally:
        watchdog.stop()


class Watchdog:
    """Watches the thread that makes it. See `watched`."""

    def __init__(
        self,
        board: NoticeBoard | None,
        timeout_minutes: float | None,
        position_of: Callable[[FrameType], Position],
    ) -> None:
        self._board = board
        self._timeout = None if timeout_minutes is None else 60 * timeout_minutes
        self._minutes = timeout_minutes
        self._tick = min(TICK_SECONDS, (self._timeout or 4) / 4)
        self._position_of = position_of
        self._watched_thread = threading.get_ident()
        self._progress = self._seen = 0
        self._idle_seconds = 0.0
        self._heard = self._round = 0
        self._is_ending = False
        self._stopped = threading.Event()
        self._end = threading.Lock()  # of whoever ends the process: the thread, or this
        self._thread: threading.Thread | None = None

    def batches(self, loader: LoaderT) -> LoaderT:
        """The loader, whose every batch counts as progress; with its length and attributes."""
        return cast(LoaderT, _Noted(loader, self._note))

    def start(self) -> None:
        if self._board is not None or self._timeout is not None:
            self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
            start_thread(self._thread)

    def expect_the_end(self) -> None:
        """From here on, the store may go with rank 0, which may hold it."""
        self._is_ending = True

    def take_the_end(self) -> None:
        """Let the thread end nothing any more; returns never if it is ending the process."""
        self._end.acquire()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(GRACE_SECONDS)  # it may be waiting for an answer, and ends nothing

    def _note(self) -> None:
        self._progress += 1

    def _run(self) -> None:
        before = time.monotonic()
        while not self._stopped.wait(self._tick):
            now = time.monotonic()
            # a process that was suspended has not waited
            self._idle_seconds += min(now - before, 2 * self._tick)
            before = now
            if self._progress != self._seen:
                self._seen, self._idle_seconds = self._progress, 0.0
            if self._board is not None:
                self._listen(self._board)
            if self._timeout is not None and self._idle_seconds >= self._timeout:
                self._raise_alarm()

    def _listen(self, board: NoticeBoard) -> None:
        """Act on what was posted since the last time."""
        rings = board.rings()
        if board.is_gone:
            if not self._is_ending:
                self._end_after_grace(loss_of_the_store(board.rank, is_silent=board.is_silent))
            return
        if rings == self._heard:
            return
        self._heard = rings
        if failure := failure_of_another(board):
            self._end_after_grace(failure)
            return
        if board.read("lost"):
            board.post("alive", "")
        if self._timeout is not None and board.read(f"alarm/{self._round}"):
            self._attend(board)

    def _raise_alarm(self) -> None:
        if self._board is None:
            standing = Standing(self._idle_seconds, self._position())
            if self._end.acquire(blocking=False):
                self._end_standing({0: standing}, _stacks(), is_told=True)
            return
        self._board.post(f"alarm/{self._round}", "")
        self._attend(self._board)

    def _attend(self, board: NoticeBoard) -> None:
        """Say where this rank stands, and do what the first to raise the alarm makes of it.

        Until that is known, a rank that is quicker to leave must not pass for one that was lost.
        """
        may_end = self._end.acquire(blocking=False)
        this, stacks = self._round, _stacks()
        own = Standing(self._idle_seconds, self._position())
        board.post(f"standing/{this}", json.dumps(own))
        if next(iter(board.read(f"alarm/{this}")), board.rank) == board.rank:
            found = _standings(board.wait(f"standing/{this}", board.world_size, ANSWER_SECONDS))
            idle = min((standing.idle_seconds for standing in found.values()), default=0.0)
            goes_on = idle < 0.9 * (self._timeout or 0)
            board.post(f"verdict/{this}", json.dumps(idle if goes_on else None))
        verdicts = board.wait(f"verdict/{this}", 1, ANSWER_SECONDS + GRACE_SECONDS)
        found = _standings(board.read(f"standing/{this}"))
        self._round += 1
        idle_seconds = next((json.loads(text) for text in verdicts.values()), None)
        if idle_seconds is not None:  # another rank is at work, and this one may wait for it
            self._idle_seconds = min(self._idle_seconds, idle_seconds)
            if may_end:
                self._end.release()
            return
        found.setdefault(board.rank, own)
        if may_end:
            self._end_standing(found, stacks, is_told=board.rank == min(found))

    def _end_standing(self, found: dict[int, Standing], stacks: str, *, is_told: bool) -> NoReturn:
        count = 1 if self._board is None else self._board.world_size
        message = describe_standstill(found, count, cast(float, self._minutes))
        rank = 0 if self._board is None else self._board.rank
        seconds, position = found[rank]
        where = f"where this rank stands, after {seconds:.0f} s: in {position}\n{stacks}"
        logger.error("%s", where, extra=FILE_ONLY)
        self._end_process(PeerFailedError(message, is_told=is_told))

    def _end_after_grace(self, failure: PeerFailedError) -> None:
        if not self._stopped.wait(GRACE_SECONDS) and self._end.acquire(blocking=False):
            self._end_process(failure)

    def _position(self) -> Position:
        frame = sys._current_frames().get(self._watched_thread)
        return Position("its end", "") if frame is None else self._position_of(frame)

    def _end_process(self, failure: PeerFailedError) -> NoReturn:
        """End with code 1, when this rank's lines are out and its checkpoint is written."""
        logger.error("%s", failure, extra=FILE_ONLY)
        if failure.is_told:
            say(failure, str(failure))
        tell_launcher(str(failure))
        deadline = time.monotonic() + WRITING_SECONDS
        for thread in threading.enumerate():
            if not thread.daemon and thread.ident != self._watched_thread:
                thread.join(max(0.0, deadline - time.monotonic()))
        if self._board is not None:
            leave(self._board)
        for process in multiprocessing.active_children():
            process.kill()  # one that hangs, like a loader's, would outlive this one
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody may be there to read it
                stream.flush()
        os._exit(1)


class _Noted:
    """A loader that says when a batch is asked for, and when it is given."""

    def __init__(self, iterable: Iterable[Any], note: Callable[[], None]) -> None:
        self._iterable = iterable
        self._note = note

    def __len__(self) -> int:
        return len(self._iterable)  # type: ignore[arg-type]  # without a length, its own TypeError

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # its own, and absent only while it is copied
            raise AttributeError(name)
        return getattr(self._iterable, name)

    def __iter__(self) -> Iterator[Any]:
        self._note()
        for item in self._iterable:
            self._note()
            yield item
            self._note()


def _group_board() -> NoticeBoard | None:
    """A board for this group alone, under a name that rank 0 makes up; called by all ranks.

    Raises PeerFailedError if one of them is lost meanwhile.
    """
    if not comm.is_distributed():
        return None
    rank, world_size = comm.get_rank(), comm.get_world_size()
    try:
        board = open_board(comm.broadcast(uuid.uuid4().hex), rank, world_size)
        return board if all(comm.all_gather(board is not None)) else None
    except RuntimeError as error:
        if not is_echo(error):
            raise
        raise loss_before_the_board(error, rank, world_size) from error


def _standings(found: dict[int, str]) -> dict[int, Standing]:
    return {rank: Standing.from_json(text) for rank, text in sorted(found.items())}


def _stacks() -> str:
    """The Python stack of every thread, innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
        if ident != threading.get_ident()
    )

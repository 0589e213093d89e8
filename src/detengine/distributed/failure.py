"""Failing together: one rank's error ends all of them, and each knows which rank's it was."""

import logging
import os
import re
import signal
import threading
import time

from detengine.distributed.board import NoticeBoard, open_board
from detengine.distributed.report import (
    PeerFailedError,
    message_of,
    note_who_says,
    say,
    tell_launcher,
)

logger = logging.getLogger("detengine.distributed")

FILE_ONLY = {"to_console": False}
"""A log record's `extra`: the console hears of it from another rank, or otherwise."""
ANSWER_SECONDS = 4.0
"""How long a rank may take to say that it is alive."""
LINGER_SECONDS = 8.0
"""How long a rank that failed waits for the others to have heard of it."""
PARTING_SECONDS = 2.0
"""How long rank 0 waits for the others to have left."""
NAMED = 10
"""How many ranks a message names one by one."""
_PAUSE_SECONDS = 0.05
_KILLED = "is gone without a word: its process was killed (out of memory?), or its machine is gone"
_FROZEN = (
    "does not answer any more: its process is frozen, or its machine or the network to it is gone"
)
_ECHOES = re.compile(
    r"connection (was )?(closed|reset|refused|aborted)|broken pipe|socket ?timeout|gloo/transport"
    r"|timed out waiting|nccl(RemoteError|SystemError|InternalError)|NCCL (communicator|error)"
    r"|application timeout caused pair closure|collective operation timeout",
    re.IGNORECASE,
)


def is_echo(error: BaseException) -> bool:
    """Whether the error says no more than that another rank could not be talked with."""
    if not isinstance(error, RuntimeError) or isinstance(error, PeerFailedError):
        return False
    is_of_group = type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError")
    return is_of_group or _ECHOES.search(str(error)) is not None


def fail_together(board: NoticeBoard, error: BaseException) -> BaseException:
    """Tell the others of this rank's error, and give the one to go on with.

    An error of its own is posted, and kept from leaving until the others have heard of it: a rank
    that leaves while another talks over gloo ends that one by SIGABRT, without a word. The echo of
    a lost rank becomes a PeerFailedError that names it. torchrun's SIGTERM, which comes as soon as
    one rank has ended, is ignored from here on: it would end this one before it has spoken.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if is_echo(error):
        failure = _diagnose(board, error)
        logger.error("%s", failure, extra=FILE_ONLY)
        leave(board)
        return failure
    if isinstance(error, PeerFailedError):
        leave(board)
        return error
    message = message_of(error)
    if not isinstance(error, Exception):  # an exit, of which nobody else says anything
        message = f"{type(error).__name__} {message}".strip()
        say(error, message)
    message = message or type(error).__name__
    logger.error("%s", message, extra=FILE_ONLY)
    tell_launcher(message)
    board.post("failed", message)
    failed = _linger(board)
    said = any(rank < board.rank and text == message for rank, text in failed.items())
    note_who_says(error, another=said)
    leave(board)
    return error


def leave(board: NoticeBoard) -> None:
    """Let the others know that they need not wait; rank 0, which may hold the store, sees them off.

    Nothing may be posted or read afterwards.
    """
    if board.rank > 0:
        board.post_last("left")
        return
    board.post("left", "")
    board.wait("left", board.world_size, PARTING_SECONDS)


def failure_of_another(board: NoticeBoard) -> PeerFailedError | None:
    """What another rank has posted of its failure, if one has."""
    for rank, message in board.read("failed").items():
        if rank != board.rank:
            return PeerFailedError(f"rank {rank} failed: {message}")
    return None


def loss_before_the_board(error: RuntimeError, rank: int, world_size: int) -> PeerFailedError:
    """Who was lost before the ranks had agreed on a board: those that are left meet on another."""
    board = open_board("beginning", rank, world_size)
    if board is None:
        return loss_of_the_store(rank)
    failure = _diagnose(board, error)
    leave(board)
    return failure


def loss_of_the_store(rank: int, *, is_silent: bool = False) -> PeerFailedError:
    """It went with the process that keeps it; then the ranks cannot agree who speaks.

    is_silent: as a board's.
    """
    who, is_told = "rank 0", rank == 1
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        who = f"torchrun on {os.environ['MASTER_ADDR']}, which holds the ranks together,"
        is_told = os.environ.get("LOCAL_RANK", "0") == "0"
    how = _FROZEN if is_silent else _KILLED
    return PeerFailedError(f"{who} {how}", is_told=is_told)


def _diagnose(board: NoticeBoard, error: BaseException) -> PeerFailedError:
    """Who was lost: a rank that said why, or one that does not say it is alive."""
    first_line = (str(error).splitlines() or [""])[0]
    board.post("lost", first_line)
    deadline, alive = time.monotonic() + ANSWER_SECONDS, {board.rank}
    while len(alive) < board.world_size and time.monotonic() < deadline and not board.is_gone:
        time.sleep(_PAUSE_SECONDS)
        if failure := failure_of_another(board):
            return failure
        alive |= {*board.read("lost"), *board.read("alive")}
    if board.is_gone:
        return loss_of_the_store(board.rank, is_silent=board.is_silent)
    silent = sorted(set(range(board.world_size)) - alive)
    is_told = board.rank == min(alive)
    if silent:
        return _silent(silent, is_told=is_told)
    return PeerFailedError(
        "the ranks cannot reach each other any more, but all of them are alive: look at the "
        f"network between them. {first_line}",
        is_told=is_told,
    )


def _silent(ranks: list[int], *, is_told: bool) -> PeerFailedError:
    if len(ranks) == 1:
        return PeerFailedError(f"{name_ranks(ranks)} {_KILLED}", is_told=is_told)
    return PeerFailedError(
        f"{name_ranks(ranks)} are gone without a word: their processes were killed (out of "
        "memory?), or their machines are gone",
        is_told=is_told,
    )


def name_ranks(ranks: list[int]) -> str:
    """'rank 1', 'ranks 0, 2 and 5', and of a thousand the first ten 'and 990 more'."""
    names = [str(rank) for rank in ranks]
    if len(names) == 1:
        return f"rank {names[0]}"
    if len(names) > NAMED + 1:
        names[NAMED:] = [f"{len(names) - NAMED} more"]
    return f"ranks {', '.join(names[:-1])} and {names[-1]}"


def _linger(board: NoticeBoard) -> dict[int, str]:
    """Wait until every other rank has failed too, or leaves; then what failed, by rank."""
    deadline = time.monotonic() + LINGER_SECONDS
    while True:
        failed = board.read("failed")
        heard = {board.rank, *failed, *board.read("left")}
        if len(heard) == board.world_size or board.is_gone or time.monotonic() > deadline:
            return failed
        time.sleep(_PAUSE_SECONDS)

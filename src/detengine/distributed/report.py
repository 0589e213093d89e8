"""How the error that ends a run reaches the console: once, in its own words, with its rank.

Nothing here imports torch before several ranks need it.
"""

import json
import os
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

from detengine.distributed.out_of_memory import describe, is_out_of_memory
from detengine.untrusted.text import printable

_SAID = "_detengine_is_said"
_SECONDS = 1.0
_MOST_CHARACTERS = 10_000
"""Of an error's message."""


class PeerFailedError(RuntimeError):
    """This rank cannot go on, because another one failed.

    is_told: whether this rank is to tell the user, because the one that failed cannot.
    """

    def __init__(self, message: str, *, is_told: bool = False) -> None:
        super().__init__(message)
        self.is_told = is_told


def message_of(error: BaseException) -> str:
    """An error's own words and its notes; of a very long message, its two ends.

    Those of a data loader's worker come wrapped in its traceback. Of one that says that the memory
    was not enough: what that was for, and what to do.
    """
    if not isinstance(error, PeerFailedError) and is_out_of_memory(error):
        return describe(error)
    text = str(error)
    if isinstance(error, OSError) and error.filename is None and error.strerror:
        text = error.strerror  # without the number, which tells nobody anything
    _, wrapped, original = text.rpartition(f"\n{type(error).__name__}: ")
    if wrapped and "Original Traceback" in text:
        return _shortened(original.strip())
    return _shortened("\n".join([text, *getattr(error, "__notes__", ())]))


def _shortened(text: str) -> str:
    """What a terminal, a log and the other ranks can take: not all numbers of a large array."""
    more = len(text) - _MOST_CHARACTERS
    if more <= 0:
        return text
    middle = _MOST_CHARACTERS // 2
    return f"{text[:middle]} ... {more:,} more characters ... {text[-middle:]}"


def launched_rank() -> int | None:
    """This process's rank as its launcher set it; None where it was started alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    return int(os.environ.get("RANK", "0"))


def with_rank(error: BaseException, message: str) -> str:
    """The console's line. A PeerFailedError is not this rank's, and names whose it is."""
    rank = launched_rank()
    if not rank or isinstance(error, PeerFailedError):
        return f"error: {message}"
    return f"error on rank {rank}: {message}"


def say(error: BaseException, message: str) -> None:
    """Print the console's line of an error, where somebody may read it; never fails."""
    with suppress(OSError, ValueError):
        print(printable(with_rank(error, message)), file=sys.stderr, flush=True)


def note_who_says(error: BaseException, *, another: bool) -> None:
    """Remember, on the error itself, whether another rank tells the user the same."""
    error.__dict__[_SAID] = another


def is_said_by_another(error: BaseException, message: str) -> bool:
    """Whether another rank tells the user, so that this one need not.

    An error from before the group existed is compared with rank 0's, in torchrun's store; under
    another launcher nobody knows, and every rank speaks.
    """
    if isinstance(error, PeerFailedError):
        return not error.is_told
    rank = launched_rank()
    if rank is None or _SAID in error.__dict__:
        return bool(error.__dict__.get(_SAID, False))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return False
    from detengine.distributed.board import open_board

    board = open_board("refusals", rank, int(os.environ["WORLD_SIZE"]))
    if board is None:
        return False
    board.post(f"refusal/{rank}", message)
    return rank > 0 and board.wait("refusal/0", 1, _SECONDS).get(0) == message


def tell_launcher(message: str) -> None:
    """Write the error where torchrun looks for it, so that its closing report repeats it.

    The first one stays: torchrun takes the earliest of all ranks' for the cause.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path is None or Path(path).exists():
        return
    about = {"py_callstack": message, "timestamp": str(int(time.time()))}
    try:
        report = {"message": {"message": message, "extraInfo": about}}
        Path(path).write_text(json.dumps(report), encoding="utf-8")
    except OSError:  # a report that cannot be written must not hide what it is about
        traceback.print_exc()

"""Where the console's lines go, which may be gone before the run has ended."""

import errno
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Output:
    """The standard output, of whatever moment; a run does not end with it.

    The reader of a pipe may leave (`| head`), or a terminal be closed: that is said once, and what
    is written from then on goes nowhere. On a full disk each line is tried again.
    """

    def __init__(self) -> None:
        self._is_told = False

    def write(self, text: str) -> int:
        stream = _behind(sys.stdout)
        try:
            return len(text) if stream is None else stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        stream = _behind(sys.stdout)
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            self._lose(error)

    def isatty(self) -> bool:
        stream = _behind(sys.stdout)
        return stream is not None and stream.isatty()

    def __getattr__(self, name: str) -> Any:
        if name == "rich_proxied_file":  # rich would write past this object
            raise AttributeError(name)
        return getattr(_behind(sys.stdout), name)

    def _lose(self, error: OSError) -> None:
        if error.errno not in _NO_ROOM:
            _send_nowhere(_behind(sys.stdout))  # or Python, too, fails to flush it at the end
        if self._is_told:
            return
        self._is_told = True
        try:
            print(
                f"warning: the output cannot be written to any more ({error.strerror}); the run "
                "goes on, and its lines are in the log.txt of its folder",
                file=_behind(sys.stderr),
                flush=True,
            )
        except OSError:
            _send_nowhere(_behind(sys.stderr))


def _behind(stream: TextIO | None) -> TextIO | None:
    """The stream itself where rich, which writes to the console, has put something before it."""
    proxied: TextIO | None = getattr(stream, "rich_proxied_file", stream)
    return proxied


def _send_nowhere(stream: TextIO | None) -> None:
    if stream is None:
        return
    with suppress(OSError, ValueError):  # it may have no descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)

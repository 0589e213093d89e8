"""The log of a run: its lines on the console and in `log.txt`.

A record whose attribute `to_console` is False goes to files only; one whose `is_progress` is True
does so while a view shows the same (`without_progress_lines`).
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, cast

from rich.console import Console

from detengine.disk.writing import cannot_write, naming
from detengine.distributed.comm import get_rank, is_main_process
from detengine.monitor.output import Output
from detengine.untrusted.links import without_link
from detengine.untrusted.text import printable

_LINE = "%(asctime)s %(name)s %(levelname)s: %(message)s"
_SHORT_LINE = "%(asctime)s %(message)s"
_STYLES = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}
_OWN_HANDLERS = ("detengine.console", "detengine.file")


@cache
def console() -> Console:
    """The terminal that log, progress bar and tables share, so that none tears another."""
    return Console(file=cast(IO[str], Output()))


class _PrintableFormatter(logging.Formatter):
    """Escapes what is no character to be seen: a name in somebody's data commands no terminal, now
    or when the file is looked at."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n\t")


class ConsoleHandler(logging.Handler):
    """Writes lines above the progress bar, whole and as they are.

    On a terminal and in a notebook with the time alone before them, and there with colours for
    warnings and errors.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "to_console", True):
            return
        try:
            if console().is_jupyter:
                print(self.format(record))  # one output for all lines, where rich makes many
            else:
                style = _STYLES.get(record.levelno) if console().is_interactive else None
                console().out(self.format(record), style=style, highlight=False)
        except Exception:  # logging's own rule: a line that fails must not stop the run
            self.handleError(record)

    def close(self) -> None:
        """Take a bar away that an error has left, and give a terminal its cursor back."""
        if console().is_interactive or console().is_jupyter:
            from detengine.monitor.display import display

            display().end()
        console().show_cursor(True)
        super().close()


class LogFile(logging.FileHandler):
    """A file whose disk may be full or gone: that is said once, and the run goes on without it.

    Each line is tried, so that those come again that are logged when there is room.
    """

    _has_failed = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # of another rank's file, which is opened at its first line
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._has_failed:
            self._has_failed = True
            problem = cannot_write(Path(self.baseFilename), error)
            logging.getLogger("detengine.monitor").warning(
                "%s. Until then the log is on the console alone.", problem.strerror or problem
            )

    def close(self) -> None:
        with suppress(OSError):  # of what could not be written, which was said
            super().close()


@contextmanager
def logging_to(output_folder: str | Path | None) -> Iterator[None]:
    """`setup_logging` for the length of a block."""
    setup_logging(output_folder)
    try:
        yield
    finally:
        close_logging()


def setup_logging(output_folder: str | Path | None) -> None:
    """Send what `detengine` logs to the console and, with a folder, to its `log.txt`.

    Called by every rank. Rank 0 shows INFO and writes the file, whose folder must exist. The
    others show errors only, with their rank: what all warn of, rank 0 says. Their warnings are in
    `log_rank1.txt` and so on, beside the file, each made for its first line.
    A second call replaces the first; the files are appended to.
    """
    close_logging()
    logger = logging.getLogger("detengine")
    logger.setLevel(logging.INFO)
    logger.propagate = False  # an application's own root handler would show every line again
    to_console = ConsoleHandler()
    to_console.set_name("detengine.console")
    if is_main_process():
        to_console.setFormatter(_formatter_of_console())
    else:
        to_console.setLevel(logging.ERROR)
        to_console.setFormatter(_PrintableFormatter(_LINE.replace(": ", f" [rank {get_rank()}]: ")))
    logger.addHandler(to_console)
    if output_folder is not None:
        logger.addHandler(_file_of_this_rank(Path(output_folder)))


def _formatter_of_console() -> logging.Formatter:
    if console().is_interactive or console().is_jupyter:
        return _PrintableFormatter(_SHORT_LINE, datefmt="%H:%M:%S")
    return _PrintableFormatter(_LINE)


@contextmanager
def without_progress_lines() -> Iterator[None]:
    """Leave a training's lines to the files, during the block."""
    handlers = [
        each
        for each in logging.getLogger("detengine").handlers
        if each.get_name() == "detengine.console"
    ]
    for handler in handlers:
        handler.addFilter(_is_no_progress)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(_is_no_progress)


def _is_no_progress(record: logging.LogRecord) -> bool:
    return not getattr(record, "is_progress", False)


def _file_of_this_rank(folder: Path) -> logging.FileHandler:
    first = is_main_process()
    path = folder / ("log.txt" if first else f"log_rank{get_rank()}.txt")
    with naming(path):
        to_file = LogFile(without_link(path), encoding="utf-8", delay=not first)
    to_file.setLevel(logging.INFO if first else logging.WARNING)
    to_file.set_name("detengine.file")
    to_file.setFormatter(_PrintableFormatter(_LINE))
    return to_file


def close_logging() -> None:
    """Take back what `setup_logging` did, and close the file. Handlers of others stay."""
    logger = logging.getLogger("detengine")
    for handler in [each for each in logger.handlers if each.get_name() in _OWN_HANDLERS]:
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


@contextmanager
def collected_warnings(name: str) -> Iterator[list[str]]:
    """A block in which a logger shows nothing; what it warns of is in the list, each once."""
    logger = logging.getLogger(name)
    found: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if message not in found:
                found.append(message)

    handler = Collect(logging.WARNING)
    propagates = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.propagate = propagates
        logger.removeHandler(handler)

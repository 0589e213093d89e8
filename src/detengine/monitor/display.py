"""What is shown beside the log and changes while it is: bars, and the view of a training.

On a terminal it stands below the log's lines; in a notebook it is one output that is replaced.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from io import StringIO
from threading import Event, RLock, Thread
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment

from detengine.monitor.logs import console

logger = logging.getLogger("detengine.monitor")

Render = Callable[[], RenderableType]

_WIDTH = 88
"""Columns at most: what is narrower than its terminal is whole after that became narrower, too."""
_REDRAW_SECONDS = 0.25
_NOTEBOOK_SECONDS = 1.0


class Display(Protocol):
    """Where several things can be shown, one below the other."""

    def showing(self, render: Render, *, keep: bool = False) -> AbstractContextManager[None]:
        """Show what `render` gives, during the block. keep: its last state stays afterwards."""

    def still(self) -> AbstractContextManager[object]:
        """Nothing is drawn during the block, in which processes are forked."""

    def step(self) -> None:
        """To be called by the loop, wherever there may be something new to see."""

    def end(self) -> None:
        """Take away what an error has left."""


@cache
def display() -> Display:
    """That of this process. Only where somebody can see it (see `progress.is_watched`)."""
    return NotebookDisplay() if console().is_jupyter else TerminalDisplay(console())


class TerminalDisplay:
    """Draws below the log's lines, by a thread of its own, so that it moves in long steps too.

    Whatever cannot be drawn ends the drawing, and is warned of, but never the work that is shown.
    """

    def __init__(self, on: Console) -> None:
        self._console = on
        self._shown: list[Render] = []
        self._live: Live | None = None
        self._width = on.width
        self._has_failed = False
        self._drawing = RLock()
        self._ended = Event()

    @contextmanager
    def showing(self, render: Render, *, keep: bool = False) -> Iterator[None]:
        is_outermost = not self._shown
        with self._drawing:
            self._shown.append(render)
            if is_outermost and not self._has_failed:
                self._begin(keep)
            self._draw()
        try:
            yield
        finally:
            with self._drawing:
                if is_outermost:
                    self.end()
                elif render in self._shown:
                    self._shown.remove(render)
                    self._draw()

    def still(self) -> AbstractContextManager[object]:
        return self._drawing  # or a forked process had rich's locks, held by nobody

    def step(self) -> None:
        pass

    def end(self) -> None:
        with self._drawing:
            live, self._live = self._live, None
            self._ended.set()
            if live is not None:
                self._guarded(live, live.stop)
            self._shown.clear()

    def _begin(self, keep: bool) -> None:
        self._live = Live(
            get_renderable=self._all, console=self._console, auto_refresh=False, transient=not keep
        )
        self._ended = Event()
        self._guarded(self._live, self._live.start)
        thread = Thread(target=self._redraw, args=(self._ended,), name="display", daemon=True)
        thread.start()

    def _redraw(self, ended: Event) -> None:
        while not ended.wait(_REDRAW_SECONDS):
            with self._drawing:
                if not ended.is_set():
                    self._draw()

    def _draw(self) -> None:
        if self._live is not None:
            self._guarded(self._live, self._refresh)

    def _refresh(self) -> None:
        width, before = self._console.width, self._width
        self._width = width
        if self._live is not None:
            if width < before:
                self._erase_wrapped(before, width)
            self._live.refresh()

    def _erase_wrapped(self, before: int, width: int) -> None:
        """Go up by what a terminal adds to the lines it has, when it wraps them anew."""
        options = self._console.options.update(width=before)
        lines = self._console.render_lines(self._all(), options, pad=False)
        lengths = [Segment.get_line_length(line) for line in lines]
        added = sum(max(length - 1, 0) // width for length in lengths)
        up = ((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))
        self._console.control(Control(*up * added))

    def _guarded(self, live: Live, draw: Callable[[], object]) -> None:
        try:
            draw()
        except Exception as error:  # a terminal that is gone, a letter that it has not
            self._live, self._has_failed = None, True
            self._ended.set()
            with suppress(Exception):
                live.stop()
            _warn(error)

    def _all(self) -> RenderableType:
        return Constrain(Group(*(render() for render in self._shown)), _WIDTH)


class NotebookDisplay:
    """One output of the cell, replaced at most once a second, by the loop itself.

    It, too, ends where it cannot be drawn.
    """

    def __init__(self) -> None:
        self._shown: list[Render] = []
        self._handle: Any = None
        self._drawn = 0.0

    @contextmanager
    def showing(self, render: Render, *, keep: bool = False) -> Iterator[None]:
        self._shown.append(render)
        is_outermost = len(self._shown) == 1
        if is_outermost:
            from IPython.display import DisplayHandle

            self._handle = DisplayHandle()  # type: ignore[no-untyped-call]
            self._handle.display(_in_a_notebook(self._shown), raw=True)
        try:
            yield
        finally:
            self._draw()
            if is_outermost:
                self.end()
            elif render in self._shown:
                self._shown.remove(render)

    def still(self) -> AbstractContextManager[object]:
        return nullcontext()

    def step(self) -> None:
        if time.monotonic() - self._drawn >= _NOTEBOOK_SECONDS:
            self._draw()

    def end(self) -> None:
        self._shown.clear()
        self._handle = None

    def _draw(self) -> None:
        if self._handle is None:
            return
        self._drawn = time.monotonic()
        try:
            self._handle.update(_in_a_notebook(self._shown), raw=True)
        except Exception as error:
            self._handle = None
            _warn(error)


def _warn(error: Exception) -> None:
    logger.warning("nothing is shown from here on: %s: %s", type(error).__name__, error)


def _in_a_notebook(shown: list[Render]) -> dict[str, str]:
    """The output, as HTML and as text, by its kind."""
    page = Console(file=StringIO(), record=True, width=_WIDTH, force_jupyter=False)
    page.print(Group(*(render() for render in shown)))
    html = '<pre style="line-height: normal; margin: 0">{code}</pre>'
    return {
        "text/html": page.export_html(inline_styles=True, code_format=html, clear=False),
        "text/plain": page.export_text().rstrip(),
    }

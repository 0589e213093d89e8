"""How far a loop has come, as one line, and the loop that moves it."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from detengine.monitor.display import Display
from detengine.untrusted.text import printable

_TIMES = 64
"""Steps that the rate is taken from."""


class Bar:
    """Counts steps, and tells their rate and when they will be done. total: None if unknown.

    seconds_per_step: where somebody has measured it better than the bar, which sees the pauses.
    has_ended: to be set where a loop ends before its total.
    """

    def __init__(self, description: str, total: int | None, completed: int = 0) -> None:
        self.description = description
        self.total = total
        self.completed = completed
        self.seconds_per_step: float | None = None
        self.has_ended = False
        self._began = time.monotonic()
        self._times = deque([self._began], maxlen=_TIMES)

    def advance(self, to: int) -> None:
        """The loop asks for the next step: so many are done."""
        self.completed = to
        self._times.append(time.monotonic())

    def render(self, *, rate: bool = True) -> RenderableType:
        """One line. rate: whether it tells the rate."""
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(no_wrap=True, overflow="ellipsis", max_width=30)
        line.add_column(ratio=1, min_width=4)
        cells: list[RenderableType] = [
            Text(printable(self.description, keep="")),
            ProgressBar(total=self.total, completed=self.completed),
        ]
        for text in (self._count(), self._rate() if rate else "", self._times_in_words()):
            if text:
                line.add_column(no_wrap=True)
                cells.append(Text(text))
        line.add_row(*cells)
        return line

    def _count(self) -> str:
        return f"{self.completed}/{'?' if self.total is None else self.total}"

    def _seconds(self) -> float | None:
        """Of a step; None before the first."""
        if self.seconds_per_step is not None or len(self._times) == 1:
            return self.seconds_per_step
        return (self._times[-1] - self._times[0]) / (len(self._times) - 1)

    def _rate(self) -> str:
        seconds = self._seconds()
        if not seconds:
            return ""
        return f"{1 / seconds:.1f} / s" if seconds <= 1 else f"{seconds:.1f} s each"

    def _times_in_words(self) -> str:
        elapsed = clock(time.monotonic() - self._began)
        seconds = self._seconds()
        if self.has_ended or (self.total is not None and self.completed >= self.total):
            return f"in {elapsed}"
        if self.total is None or seconds is None:
            return elapsed
        return f"{elapsed} eta {clock(seconds * (self.total - self.completed))}"


class Followed:
    """A loader whose batches move a bar; has its length and attributes.

    shown: the bar is shown as long as the loop lasts; else somebody else shows it.
    batches_per_step: after how many the bar moves.
    """

    def __init__(
        self,
        iterable: Iterable[Any],
        bar: Bar,
        display: Display,
        *,
        shown: bool,
        batches_per_step: int = 1,
    ) -> None:
        self._iterable = iterable
        self._bar = bar
        self._display = display
        self._shown = shown
        self._batches_per_step = batches_per_step

    def __len__(self) -> int:
        return len(self._iterable)  # type: ignore[arg-type]  # without a length, its own TypeError

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # its own, and absent only while it is copied
            raise AttributeError(name)
        return getattr(self._iterable, name)

    def __iter__(self) -> Iterator[Any]:
        with self._display.showing(self._bar.render) if self._shown else nullcontext():
            begin = self._bar.completed
            with self._display.still():
                items = iter(self._iterable)
            for number, item in enumerate(items, start=1):
                yield item
                if number % self._batches_per_step == 0:
                    self._bar.advance(begin + number // self._batches_per_step)
                self._display.step()


def clock(seconds: float) -> str:
    """`0:01:30`."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"

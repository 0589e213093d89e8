"""A progress bar around a loop, where somebody can see it."""

from collections.abc import Iterable, Iterator
from operator import length_hint
from typing import Any, TypeVar, cast

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from detengine.distributed.comm import is_main_process
from detengine.monitor.logs import console

LoaderT = TypeVar("LoaderT", bound=Iterable[Any])


def track(
    iterable: LoaderT, description: str, total: int | None = None, completed: int = 0
) -> LoaderT:
    """The same items, with a bar of their number, rate and remaining time while they last.

    total: what the bar ends at, the iterable's length if None; completed: where it begins, for a
    resumed run. What comes back has the iterable's length and attributes, and so stands for a data
    loader; a tracked loop inside a tracked loop shows both bars. Without a terminal, and on ranks
    other than 0, it is the iterable itself.
    """
    if not is_main_process() or not console().is_interactive:
        return iterable
    if total is None:
        total = length_hint(iterable) or None
    return cast(LoaderT, _Tracked(iterable, description, total, completed))


class _Tracked:
    def __init__(
        self, iterable: Iterable[Any], description: str, total: int | None, completed: int
    ) -> None:
        self._iterable = iterable
        self._description = description
        self._total = total
        self._completed = completed

    def __len__(self) -> int:
        return len(self._iterable)  # type: ignore[arg-type]  # without a length, its own TypeError

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # its own, and absent only while it is copied
            raise AttributeError(name)
        return getattr(self._iterable, name)

    def __iter__(self) -> Iterator[Any]:
        with _bar() as bar:
            task = bar.add_task(self._description, total=self._total, completed=self._completed)
            for item in self._iterable:
                yield item
                bar.advance(task)


class _RateColumn(ProgressColumn):
    """Steps a second, or seconds a step where that says more."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f} / s" if speed >= 1 else f"{1 / speed:.1f} s each")


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        console=console(),
        transient=True,  # what stays is the log
    )

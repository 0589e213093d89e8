"""A progress bar around a loop, where somebody can see it."""

from collections.abc import Iterable
from operator import length_hint
from typing import Any, TypeVar, cast

from detengine.distributed.comm import is_main_process
from detengine.monitor.logs import console

LoaderT = TypeVar("LoaderT", bound=Iterable[Any])


def is_watched() -> bool:
    """Whether this process writes to a terminal that can move its cursor, or to a notebook.

    Not with TERM=dumb or TTY_INTERACTIVE=0, nor on ranks other than 0.
    """
    return is_main_process() and (console().is_interactive or console().is_jupyter)


def track(
    iterable: LoaderT, description: str, total: int | None = None, completed: int = 0
) -> LoaderT:
    """The same items, with a bar of their number, rate and remaining time while they last.

    total: what the bar ends at, the iterable's length if None; completed: where it begins, for a
    resumed run. What comes back has the iterable's length and attributes, and so stands for a data
    loader; a tracked loop inside a tracked loop shows both bars. Where nobody watches it is the
    iterable itself.
    """
    if not is_watched():
        return iterable
    from detengine.monitor.bar import Bar, Followed
    from detengine.monitor.display import display

    if total is None:
        total = length_hint(iterable) or None
    bar = Bar(description, total, completed)
    return cast(LoaderT, Followed(iterable, bar, display(), shown=True))

"""Work of the host and of a device side by side: batches on their way, predictions being scored."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from detengine.structures.batch import Batch

_PREPARING_THREADS = 2
"""Of work that takes and gives back Python's lock often, more would only wait for it."""
_MOST_WAITING = 64
"""Pieces of work that may wait before the device has to: as many images' masks are in memory."""


def batches_on(loader: Iterable[tuple[Any, Any, Any]], device: torch.device) -> Iterator[Batch]:
    """Each of the loader's batches on the device.

    On CUDA a batch is copied on a stream of its own, while the device still computes what the host
    has asked of it before; from pinned memory (DataLoader's pin_memory) the host does not wait
    either. The device's computing stream waits for the copy, and for nothing else.
    """
    if device.type != "cuda":
        for batch in loader:
            yield Batch(*batch).to(device)
        return
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    for batch in loader:
        with torch.cuda.stream(copying):
            moved = Batch(*batch).to(device)
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(copying)
        moved.record_stream(computing)
        yield moved


class Submit(Protocol):
    """Has take(prepare()) done, or take() alone, in the order in which it was asked for."""

    def __call__(
        self, take: Callable[..., object], prepare: Callable[[], Any] | None = None, /
    ) -> None: ...


@contextmanager
def work_beside(device: torch.device) -> Iterator[Submit]:
    """Gives a function that has work done on threads, while the device computes.

    What prepares may run at any time and beside others; what takes runs alone. All of it is done
    when the block has ended, also by an error; one of a piece's own is raised at a later call, or
    there. On a CPU, which has enough to do, each piece is done at once.
    """
    if device.type == "cpu":
        yield _at_once
        return
    with (
        ThreadPoolExecutor(_PREPARING_THREADS, "preparing") as preparing,
        ThreadPoolExecutor(1, "taking") as taking,
    ):
        waiting: deque[Future[Any]] = deque()

        def submit(
            take: Callable[..., object], prepare: Callable[[], Any] | None = None, /
        ) -> None:
            if prepare is not None:
                take = _after(preparing.submit(prepare), take)
            waiting.append(taking.submit(take))
            while waiting and (waiting[0].done() or len(waiting) > _MOST_WAITING):
                waiting.popleft().result()

        yield submit
        for piece in waiting:
            piece.result()


def _at_once(take: Callable[..., object], prepare: Callable[[], Any] | None = None, /) -> None:
    if prepare is None:
        take()
    else:
        take(prepare())


def _after(prepared: Future[Any], take: Callable[..., object]) -> Callable[[], object]:
    return lambda: take(prepared.result())

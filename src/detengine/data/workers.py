"""The loader's processes."""

import multiprocessing
import os
import re
import signal
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.util import Finalize
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset, get_worker_info

_NOTHING = -1
_SECONDS_TO_DIE = 2.0
_SECONDS_BETWEEN_LOOKS = 1.0
_DEAD = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: (.+?)\.|exited)"
)
"""What torch says, from the loop over the loader or from its handler of SIGCHLD."""


class NamedSamples(Protocol):
    """A data set that can name its samples, for messages."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: Any) -> Any: ...
    def name_of(self, key: Any) -> str: ...


class ObservedData(Dataset[Any]):
    """A data set of which each loading process notes the sample it is at, in shared memory.

    It has the attributes of the data set itself.
    """

    def __init__(self, data: NamedSamples, num_workers: int) -> None:
        self.data = data
        self._process_ids = torch.full((num_workers,), _NOTHING)
        self._keys = torch.full((num_workers, 2), _NOTHING)
        for notes in (self._process_ids, self._keys):
            notes.share_memory_()  # type: ignore[no-untyped-call]
        _OBSERVED.add(self)
        Finalize(None, _end_workers, exitpriority=0)

    def __len__(self) -> int:
        return len(self.data)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "data":  # its own, and absent only while it is copied
            raise AttributeError(name)
        return getattr(self.data, name)

    def __getitem__(self, key: Any) -> Any:
        worker = get_worker_info()
        if worker is not None:
            self._keys[worker.id] = torch.tensor(key)  # (epoch, index), or the index twice
        return self.data[key]

    def start_worker(self, worker_id: int) -> None:
        """Called in each loading process when it starts."""
        self._process_ids[worker_id] = os.getpid()
        leave_signals_to_the_main_process(worker_id)
        parent = multiprocessing.parent_process()
        if parent is not None:
            watch = threading.Thread(target=_end_after, args=(parent.pid,), daemon=True)
            watch.start()

    def process_ids(self) -> set[int]:
        """Those of the loading processes that have started."""
        return set(self._process_ids.tolist()) - {_NOTHING}

    def has_started(self, process_ids: Sequence[int]) -> bool:
        """Whether one of them is a worker that loads this data."""
        return not self.process_ids().isdisjoint(process_ids)

    def where(self, process_id: int) -> str:
        """Which worker a process is, and where it was."""
        found = (self._process_ids == process_id).nonzero()
        if not len(found):
            return f"a data-loader worker (process {process_id})"
        worker = int(found[0])
        epoch, index = self._keys[worker].tolist()
        name = f"data-loader worker {worker} (process {process_id})"
        if index == _NOTHING:
            return f"{name}, which had not begun to read,"
        return f"{name}, which last began to read {self.data.name_of((epoch, index))},"


_OBSERVED: weakref.WeakSet[ObservedData] = weakref.WeakSet()


@contextmanager
def naming_dead_workers(loader: Any) -> Iterator[None]:
    """Around a loop over a loader: says of a worker that died which image it was reading.

    torch notices such a death at any place of the main thread, not only in the loader, and where a
    sample was on its way, as a broken connection.
    Raises ChildProcessError with the worker, the image and the cures.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        message = _message_of_death(loader.dataset, error)
        if message is None:
            raise
        raise ChildProcessError(message) from error


def _message_of_death(data: Any, error: Exception) -> str | None:
    """None if the error is of something else, or of another loader's worker."""
    if not isinstance(data, ObservedData):
        return None
    text = str(error)
    if not isinstance(error, RuntimeError):
        text = _wait_for_a_death(data)
    told = _DEAD.search(text)
    if told is None:
        return None
    process_ids = [int(each) for each in told[1].split(",")]
    if not data.has_started(process_ids):
        return None
    how = f"was killed by the signal {told[2]}" if told[2] else "ended unexpectedly"
    return (
        f"{' and '.join(map(data.where, process_ids))} {how}. If the memory was not enough "
        "(Killed; the system's log says so), lower DATALOADER.NUM_WORKERS, SOLVER.IMS_PER_BATCH or "
        "the size of the images; at a Bus error make /dev/shm larger; else look at that image."
    )


def _wait_for_a_death(data: ObservedData) -> str:
    """What torch says of it: a process that is killed closes its files before it is dead."""
    end = time.monotonic() + _SECONDS_TO_DIE
    try:
        while time.monotonic() < end:
            living = {process.pid for process in multiprocessing.active_children()}
            dead = data.process_ids() - living
            if dead:
                return f"DataLoader worker (pid {min(dead)}) exited"
            time.sleep(0.01)
    except RuntimeError as told:  # by torch's handler of SIGCHLD
        return str(told)
    return ""


def stop_workers(batches: Iterator[Any]) -> None:
    """End the processes behind a loader's iterator, which will not be read any further."""
    if hasattr(batches, "_shutdown_workers"):
        batches._shutdown_workers()


def _end_workers() -> None:
    """Before Python, at its end, asks its loading processes by SIGTERM, and waits for them."""
    ours: set[int] = set().union(*(data.process_ids() for data in _OBSERVED))
    for process in multiprocessing.active_children():
        if process.pid in ours:
            process.kill()


def _end_after(parent_id: int | None) -> None:
    """End this loading process once its main process is gone, killed or not.

    torch's own watch lets a worker leave its loop, but then it waits until its last batches are
    taken, which nobody does any more: small tensors travel in the message, and a pipe holds 64 KiB.
    """
    while os.getppid() == parent_id:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os._exit(1)


def leave_signals_to_the_main_process(worker_id: int) -> None:
    """Let a request to stop pass by: the main process decides, and needs its workers until then.

    A scheduler signals a whole group of processes, and torch's workers die of SIGTERM, which ends
    the training with an error before it can save. A worker whose main process is gone still ends by
    itself, within seconds (_end_after), and one that outlives its loader is killed at the main
    process's end (_end_workers).
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)

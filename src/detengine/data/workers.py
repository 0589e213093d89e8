"""The loader's processes."""

import math
import multiprocessing
import os
import re
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.util import Finalize, get_temp_dir
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset, get_worker_info

from detengine.distributed.out_of_memory import start_thread

_NOTHING = -1
_SECONDS_TO_DIE = 2.0
_SECONDS_BETWEEN_LOOKS = 1.0
_NAMED = 3
"""How many workers that are reading a message names one by one."""
_DEAD = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: (.+?)\.|exited)"
)
"""What torch says, from the loop over the loader or from its handler of SIGCHLD."""
_LONGEST_FOLDER_OF_SOCKETS = 107 - len("/listener-12345678")
"""Bytes: a socket's path may have 107, and this is what Python calls one."""
REQUESTS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)  # Windows has two of them
)
"""The signals that ask a run to stop, which are the main process's."""
_FILE = re.compile(r"\((.*)\)")
"""A sample's file in its name."""
_FEWER = "lower DATALOADER.NUM_WORKERS, SOLVER.IMS_PER_BATCH or the size of the images"
_CURES_BY_NAME = {
    "SIGKILL": f"If the memory was not enough (the system's log says so), {_FEWER}.",
    "SIGBUS": f"Make /dev/shm larger (docker run --shm-size), or {_FEWER}; else that file was cut "
    "short while it was read.",
}
_CURES: dict[int, str] = {
    getattr(signal, name): cure for name, cure in _CURES_BY_NAME.items() if hasattr(signal, name)
}
_CURE_OF_SIGNAL = "Look at that image, and at what reads it: a library has crashed over it."
_CURE_OF_EXIT = "Look at what reads and transforms the images: it has ended its process."
_CURE_OF_UNKNOWN = (
    f"If the memory was not enough (Killed; the system's log says so), {_FEWER}; at a Bus error "
    "make /dev/shm larger; else look at that image."
)


class NamedSamples(Protocol):
    """A data set that can name its samples, for messages."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: Any) -> Any: ...
    def name_of(self, key: Any) -> str: ...


class ObservedData(Dataset[Any]):
    """A data set of which each loading process notes the sample it is at, in shared memory.

    It has the attributes of the data set itself. An error says which sample it was at, and is never
    the end of the loop over the loader, which a StopIteration would be without a word.
    num_workers: 0 where the main process loads.
    """

    def __init__(self, data: NamedSamples, num_workers: int) -> None:
        self.data = data
        self._process_ids = torch.full((num_workers,), _NOTHING)
        self._keys = torch.full((num_workers, 2), _NOTHING)
        self._since = torch.full((num_workers,), math.nan, dtype=torch.float64)
        """When each worker began to read; not a number while it does not."""
        if num_workers:
            _raise_if_sockets_have_no_room()
            for notes in (self._process_ids, self._keys, self._since):
                notes.share_memory_()  # type: ignore[no-untyped-call]
            _OBSERVED.add(self)
            at_exit = Finalize(None, _end_workers, exitpriority=0)
            weakref.finalize(self, at_exit.cancel).atexit = False

    def __len__(self) -> int:
        return len(self.data)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "data":  # its own, and absent only while it is copied
            raise AttributeError(name)
        return getattr(self.data, name)

    def __getitem__(self, key: Any) -> Any:
        worker = get_worker_info()
        if worker is None:
            return self._read(key)
        self._keys[worker.id] = torch.tensor(key)  # (epoch, index), or the index twice
        self._since[worker.id] = time.monotonic()  # one clock for all processes
        try:
            sample = self._read(key)
        except Exception:  # what is none ends the process, which is then still at this sample
            self._since[worker.id] = math.nan
            raise
        self._since[worker.id] = math.nan
        return sample

    def _read(self, key: Any) -> Any:
        try:
            return self.data[key]
        except Exception as error:
            name = self.data.name_of(key if isinstance(key, tuple) else (key, key))
            if isinstance(error, StopIteration):
                raise RuntimeError(f"a StopIteration ended the reading of {name}") from error
            file = _FILE.search(name)
            if file is None or file[1] not in str(error):
                error.add_note(f"while {name} was read")
            raise

    def start_worker(self, worker_id: int) -> None:
        """Called in each loading process when it starts."""
        self._process_ids[worker_id] = os.getpid()
        leave_signals_to_the_main_process(worker_id)
        parent = multiprocessing.parent_process()
        if parent is not None:
            start_thread(threading.Thread(target=_end_after, args=(parent.pid,), daemon=True))

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
        name = self._name_of_worker(worker)
        if index == _NOTHING:
            return f"{name}, which had not begun to read,"
        sample = self.data.name_of((epoch, index))
        if math.isnan(float(self._since[worker])):
            return f"{name}, which was not reading and had read {sample} last,"
        return f"{name}, which last began to read {sample},"

    def still_reading(self) -> str:
        """Which workers are reading, the longest first, what, and how long; "" if none is."""
        now = time.monotonic()
        seconds = {
            worker: now - since
            for worker, since in enumerate(self._since.tolist())
            if not math.isnan(since)
        }
        longest = sorted(seconds, key=lambda worker: -seconds[worker])
        told = [
            f"{self._name_of_worker(worker)} has been reading "
            f"{self.data.name_of(tuple(self._keys[worker].tolist()))} for {seconds[worker]:.0f} s"
            for worker in longest[:_NAMED]
        ]
        more = len(longest) - _NAMED
        return ", ".join([*told, *([f"and {more} more are reading, too"] if more > 0 else [])])

    def _name_of_worker(self, worker: int) -> str:
        return f"data-loader worker {worker} (process {int(self._process_ids[worker])})"


def _raise_if_sockets_have_no_room() -> None:
    """Where a socket's path is too long, Python loses what a process was sent, and all wait."""
    folder = get_temp_dir()
    if os.name == "posix" and len(os.fsencode(folder)) > _LONGEST_FOLDER_OF_SOCKETS:
        raise ValueError(
            f"the folder for temporary files, {Path(folder).parent}, has too long a name for "
            "the sockets of the loader's processes. Set TMPDIR to one of at most "
            f"{_LONGEST_FOLDER_OF_SOCKETS - len(Path(folder).name) - 1} characters, or "
            "DATALOADER.NUM_WORKERS to 0."
        )


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
    names = " and ".join(map(data.where, process_ids))
    codes = _exit_codes(error)
    return f"{names} {_how_it_ended([codes.get(each) for each in process_ids], told[2])}"


def _how_it_ended(codes: Sequence[int | None], told: str | None) -> str:
    """And the cure. codes: the workers' exit codes, where known. told: by torch of a signal."""
    code = codes[0] if len(set(codes)) == 1 else None
    if code is not None and code >= 0:
        return f"ended by itself, with exit code {code}. {_CURE_OF_EXIT}"
    if code is not None:
        cure = _CURES.get(-code, _CURE_OF_SIGNAL)
        return f"was killed by the signal {told or signal.strsignal(-code)}. {cure}"
    how = f"was killed by the signal {told}" if told else "ended unexpectedly"
    return f"{how}. {_CURE_OF_UNKNOWN}"


def _exit_codes(error: Exception) -> dict[int, int | None]:
    """By process id, of the workers of the loader's iterator that the error came from.

    torch keeps the processes, and says of the one that ended no more than that it did.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        workers = getattr(frame.f_locals.get("self"), "_workers", None)
        if isinstance(workers, list):
            return {each.pid: each.exitcode for each in workers if hasattr(each, "exitcode")}
    return {}


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
    if ours and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises at such a death
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
    for number in REQUESTS:
        signal.signal(number, signal.SIG_IGN)

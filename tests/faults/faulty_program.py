"""The command line of detengine with a fault in it, which is made once, as said in FAULT (JSON).

{"at": "open", "file": part of a name, "by": "worker" or "main", "do": one of FAULTS}: when a loader
process or the main process opens that file.
{"at": "collective", "number": 3, "when": "before" or "after", "do": ...}: at the third of what this
rank calls of torch.distributed, a backward pass of DistributedDataParallel being one.
{"at": "start", "do": ...}: first of all.
{..., "rank": 1}: on that rank alone, where all have the same environment.
{"names": path}: none; the names of all collectives are written there, one a line.
"""

import ctypes
import functools
import json
import os
import pty
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from detengine.cli.main import main

LONG = 1000.0
COLLECTIVES = (
    "init_process_group",
    "all_gather_object",
    "all_reduce",
    "barrier",
    "broadcast",
    "broadcast_object_list",
    "recv",
    "reduce",
    "send",
)


class UnpicklableError(Exception):
    """It cannot travel to another process, and cannot be made anew from its message."""

    def __init__(self, message: str, lock: Any) -> None:
        super().__init__(message)
        self.lock = lock


def raise_(error: BaseException) -> None:
    raise error


def kill(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(LONG)  # a signal may come a moment later


def wait_for_itself() -> None:
    lock = threading.Lock()
    with lock:
        lock.acquire()


def leave_a_thread() -> None:
    threading.Thread(target=time.sleep, args=(LONG,)).start()


def take_all_memory() -> None:
    kept = []
    while True:
        kept.append(bytearray(2**28))


def leave_the_pipe() -> None:
    """Print into a pipe that nobody reads any more, as before `| head`."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored
    reading, writing = os.pipe()
    os.dup2(writing, 1)
    os.close(reading)


def close_the_terminal() -> None:
    """Print to a terminal whose window has been closed."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored
    window, terminal = pty.openpty()
    for descriptor in (1, 2):
        os.dup2(terminal, descriptor)
    os.close(window)


FAULTS: dict[str, Callable[[], None]] = {
    "SIGKILL": lambda: kill(signal.SIGKILL),
    "SIGSEGV": lambda: kill(signal.SIGSEGV),
    "SIGBUS": lambda: kill(signal.SIGBUS),
    "SIGSTOP": lambda: kill(signal.SIGSTOP),
    "_exit(0)": lambda: os._exit(0),
    "_exit(3)": lambda: os._exit(3),
    "SystemExit": lambda: sys.exit(3),
    "KeyboardInterrupt": lambda: raise_(KeyboardInterrupt()),
    "StopIteration": lambda: raise_(StopIteration()),
    "MemoryError": lambda: raise_(MemoryError()),
    "RecursionError": lambda: raise_(RecursionError("too deep")),
    "RuntimeError": lambda: raise_(RuntimeError("made to fail")),
    "unpicklable": lambda: raise_(UnpicklableError("made to fail", threading.Lock())),
    "huge message": lambda: raise_(ValueError("x" * 20_000_000)),
    "sleeps": lambda: time.sleep(LONG),
    "deadlock": wait_for_itself,
    "holds the GIL": lambda: ctypes.PyDLL(None).sleep(int(LONG)),
    "leaves a thread": leave_a_thread,
    "all memory": take_all_memory,
    "leaves the pipe": leave_the_pipe,
    "closes the terminal": close_the_terminal,
}


def close_all() -> None:
    """Have neither input nor output, as with `<&- >&- 2>&-`."""
    for descriptor in range(3):
        os.close(descriptor)
    sys.stdin = sys.stdout = sys.stderr = None  # type: ignore[assignment]  # as Python has it then


class Fault:
    """What FAULT says. called: the collectives that this rank has called."""

    def __init__(self, at: str = "", do: str = "", names: str = "", **more: Any) -> None:
        self.at, self.do, self.more, self.names = at, do, more, names
        self.main_process = os.getpid()
        self.called = 0
        self.is_made = False

    def make(self) -> None:
        if not self.is_made:
            self.is_made = True
            FAULTS[self.do]()

    def arm(self) -> None:
        """Under torchrun, of the rank that it is for, and not again when that was restarted."""
        if self.more.get("rank", rank_of_this()) != rank_of_this():
            return
        if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
            return
        if self.at == "start":
            self.make()
        if self.at == "open":
            sys.addaudithook(self.hear)
        if self.at == "collective" or self.names:
            for name in COLLECTIVES:
                setattr(dist, name, self.counted(getattr(dist, name)))
            watch_backward(self)

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        is_worker = os.getpid() != self.main_process
        by_right_one = is_worker == (self.more["by"] == "worker")
        if event == "open" and by_right_one and self.more["file"] in str(args[0]):
            self.make()

    def counted(self, collective: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(collective)
        def call(*args: Any, **kwargs: Any) -> Any:
            self.called += 1
            self.note(collective.__name__)
            here = self.at == "collective" and self.called == self.more["number"]
            if here and self.more["when"] == "before":
                self.make()
            result = collective(*args, **kwargs)
            if here:
                self.make()
            return result

        return call

    def note(self, name: str) -> None:
        if self.names:
            with Path(self.names).open("a") as file:
                file.write(f"{name}\n")


def rank_of_this() -> int:
    return int(os.environ.get("RANK", "0"))


def watch_backward(fault: Fault) -> None:
    """Count each backward pass; its fault is among it, when some gradients are on their way."""
    forward = DistributedDataParallel.forward
    watched: weakref.WeakSet[DistributedDataParallel] = weakref.WeakSet()

    def forward_and_watch(model: Any, *args: Any, **kwargs: Any) -> Any:
        if model not in watched:
            watched.add(model)
            among = fault.counted(backward)
            parameters = [each for each in model.parameters() if each.requires_grad]
            parameters[len(parameters) // 2].register_post_accumulate_grad_hook(among)
        return forward(model, *args, **kwargs)

    def backward(_: torch.Tensor) -> None:
        """What is called among a backward pass."""

    DistributedDataParallel.forward = forward_and_watch  # type: ignore[method-assign]


if __name__ == "__main__":
    Fault(**json.loads(os.environ["FAULT"])).arm()
    main()

"""Runs programs in forked processes, so that torch is imported once for all of them.

usage: python fork_server.py, which is asked for one thing a line, as JSON (see ForkServer in
processes.py): [1, {"start": {...}}], the keywords of `run`, is answered by [1, the process's id],
[2, {"wait": [id, seconds]}] by [2, its exit code], which is minus the signal that ended it. What
lasts longer is killed, with its group. It begins with [0, its parent's id], when it is ready.
"""

import gc
import json
import logging
import os
import re
import resource
import runpy
import signal as signals
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import detengine.run  # noqa: F401  # what every process needs
from detengine.cli.main import main


class AtLine(logging.Handler):
    """Does something at the first log line of a pattern."""

    def __init__(self, pattern: str, do: Callable[[], object]) -> None:
        super().__init__()
        self.pattern, self.do = pattern, do
        self.is_done = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self.is_done and re.search(self.pattern, record.getMessage()):
            self.is_done = True
            self.do()


def send(signal: int, *, group: bool) -> None:
    """Send this process, or its whole group, a signal."""
    (os.killpg if group else os.kill)(os.getpid(), signal)


def limit_memory(more: int) -> None:
    """Give this process no more than so many bytes of addresses beyond those that it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def start(**settings: Any) -> int:
    """The id of a new process, which leads its own group and does what `run` does."""
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        leave(run(**settings))
    with suppress(PermissionError):
        os.setpgid(pid, pid)  # by both, so that the group is there when either goes on
    return pid


def run(
    arguments: Sequence[str],
    output: str,
    environment: dict[str, str],
    program: str = "",
    signal_at: dict[str, Any] | None = None,
    memory_at: tuple[str, int] | None = None,
    read_images: str = "",
    folder: str = "",
) -> int:
    """The exit code of `PROGRAM ARGUMENTS`, or `detengine ARGUMENTS` without a program.

    output: the file that all it prints goes to. signal_at: the pattern of a log line, and what to
    `send` there. memory_at: the pattern, or "" for at once, and what to give `limit_memory`.
    read_images: the file
    that the name of every JPEG is added to when it is opened; "" writes none. folder: the one to
    work in; "" is the server's own.
    """
    for descriptor, path in ((0, os.devnull), (1, output), (2, output)):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.update(environment)
    if folder:
        os.chdir(folder)
    if signal_at is not None:
        at_line(signal_at.pop("pattern"), partial(send, **signal_at))
    if memory_at is not None:
        at_line(memory_at[0], partial(limit_memory, memory_at[1]))
    if read_images:
        note_images(read_images)
    sys.argv = [program or "detengine", *arguments]
    try:
        if program:
            sys.path.insert(0, str(Path(program).parent))
            runpy.run_path(program, run_name="__main__")
        else:
            main()
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def at_line(pattern: str, do: Callable[[], object]) -> None:
    """Do something at the first log line of a pattern; without a pattern at once."""
    if pattern:
        logging.getLogger("detengine").addHandler(AtLine(pattern, do))
    else:
        do()


def wait(pid: int, seconds: float) -> int:
    """The exit code of a process; its whole group is killed when the time is over."""
    deadline = time.monotonic() + seconds
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.killpg(pid, signals.SIGKILL)
            ended = os.waitpid(pid, 0)
            break
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(ended[1])


def leave(code: int) -> NoReturn:
    """Exit when all threads have ended, without the second that torch takes to be torn down."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def note_images(path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and str(args[0]).endswith(".jpg"):
            os.write(file, f"{Path(args[0]).name}\n".encode())

    sys.addaudithook(note)


if __name__ == "__main__":
    gc.freeze()  # no process copies what it never looks at
    print(json.dumps([0, os.getppid()]), flush=True)
    for line in sys.stdin:
        number, asked = json.loads(line)
        [(request, given)] = asked.items()
        answer = start(**given) if request == "start" else wait(*given)
        print(json.dumps([number, answer]), flush=True)
    gc.unfreeze()

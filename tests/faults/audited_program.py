"""Run by the fork server: a command of detengine, of which is written down what it reaches for.

usage: audited_program.py LOG COMMAND...: a line of JSON for each file that is opened for writing,
made, moved or removed, each connection, and each program that is started.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from detengine.cli.main import main

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PATHS = {
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.symlink": (1,),
    "os.link": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "shutil.rmtree": (0,),
    "shutil.copyfile": (1,),
}
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
_PROGRAMS = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "pty.spawn")


def _seen(event: str, args: tuple[Any, ...]) -> None:
    if event == "open":
        path, _, flags = args
        if isinstance(path, str | bytes) and flags & _WRITING:
            _write("path", str(Path(os.fsdecode(path)).absolute()))
    elif event in ("os.remove", "os.rmdir") and args[1] != -1:
        return  # a name in a folder that shutil.rmtree has open, which was seen
    elif event in _PATHS:
        for place in _PATHS[event]:
            if isinstance(args[place], str | bytes | os.PathLike):
                _write("path", str(Path(os.fsdecode(args[place])).absolute()))
    elif event in _NETWORK:
        _write("network", f"{event} {args[-1] if event != 'socket.getaddrinfo' else args[0]!r}")
    elif event in _PROGRAMS:
        _write("program", str(args[1] if event == "subprocess.Popen" else args[0]))


def _write(kind: str, what: str) -> None:
    os.write(_log, (json.dumps([kind, what]) + "\n").encode())


_log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
sys.argv = ["detengine", *sys.argv[2:]]
tempfile.tempdir = None  # another one than the fork server's
sys.addaudithook(_seen)
main()

"""detengine on a disk that fails: one call to the system in a folder, or all from there on.

usage: python sick_disk.py ARGUMENTS of detengine, with the variables SICK_FOLDER, SICK_AT (the
number of the first call that fails), SICK_ERROR (a name of errno), SICK_LASTS (1: all that follow
fail, too) and SICK_COUNT (a file that gets the number of calls). Calls are openings for writing,
renamings, removals, new folders, truncations, and waits for the disk (fsync).
"""

import errno
import os
import sys
from pathlib import Path
from typing import Any

_NAMES_A_FILE = ("os.rename", "os.remove", "os.mkdir", "os.truncate")


class SickDisk:
    """Counts calls, and fails those that are to fail."""

    def __init__(self, environment: "os._Environ[str]") -> None:
        self.folder = environment["SICK_FOLDER"]
        self.at = int(environment["SICK_AT"])
        self.number = getattr(errno, environment["SICK_ERROR"])
        self.lasts = environment["SICK_LASTS"] == "1"
        self.calls = 0

    def call(self, path: object) -> None:
        if not f"{path}/".startswith(f"{self.folder}/"):
            return
        self.calls += 1
        if self.calls == self.at or (self.lasts and self.calls > self.at):
            raise OSError(self.number, os.strerror(self.number))

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _NAMES_A_FILE or (
            event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ):
            self.call(arguments[0])

    def make_sync_fail(self) -> None:
        sync = os.fsync

        def fsync(descriptor: int) -> None:
            self.call(Path(f"/proc/self/fd/{descriptor}").readlink())
            sync(descriptor)

        os.fsync = fsync


if __name__ == "__main__":
    from detengine.cli.main import main

    disk = SickDisk(os.environ)
    disk.make_sync_fail()
    sys.addaudithook(disk.hear)
    try:
        main()
    finally:
        Path(os.environ["SICK_COUNT"]).write_text(str(disk.calls))

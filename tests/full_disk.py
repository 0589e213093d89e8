"""Small disks to be filled, a stand-in for one in the process itself, and what must be left."""

import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from detengine.checkpoint.files import load_file

PAGE = 4096
"""Bytes that a file system gives at a time."""


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file grows beyond so many bytes in the block, this process's output included."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Disk:
    """A file system of its own: a tmpfs, or an ext4 in a file."""

    def __init__(self, place: Path, pages: int, kind: str) -> None:
        self.place = place
        if kind == "tmpfs":
            self._run("mount", "-t", kind, "-o", f"size={pages * PAGE}", kind, str(place))
            return
        image = place.with_suffix(".image")
        image.write_bytes(b"")
        os.truncate(image, pages * PAGE)
        self._run("mkfs.ext4", "-q", str(image))
        self._run("mount", "-o", "loop", str(image), str(place))

    def remount(self, options: str) -> None:
        self._run("mount", "-o", f"remount,{options}", str(self.place))

    def vanish(self) -> None:
        """Its folder is an empty one of the disk below, and open files are nowhere."""
        self._run("umount", "-l", str(self.place))

    def _run(self, *command: str) -> None:
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no file system can be mounted here: {error}")


@pytest.fixture
def new_disk(tmp_path: Path) -> Iterator[Callable[..., Disk]]:
    """(pages, kind="tmpfs") -> a file system with so much room, gone after the test."""
    disks: list[Disk] = []

    def new(pages: int, kind: str = "tmpfs") -> Disk:
        place = tmp_path / f"disk{len(disks)}"
        place.mkdir()
        disks.append(Disk(place, pages, kind))
        return disks[-1]

    yield new
    for disk in disks:
        if disk.place.is_mount():
            disk.vanish()


def assert_all_is_whole(folder: Path) -> None:
    """Whatever has a file's name is that file, to its end; nothing lies beside it."""
    for path in filter(Path.is_file, folder.rglob("*")):
        assert path.suffix not in (".tmp", ".part"), path
        if path.suffix == ".pth" and path.name.startswith("model_"):
            load_file(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>")


def chosen(count: int, most: int, always: list[int]) -> list[int]:
    """So many numbers from 1 to most, those first that are always wanted."""
    others = [each for each in range(1, most + 1) if each not in always]
    random.Random(0).shuffle(others)
    return [*always, *others][:count]

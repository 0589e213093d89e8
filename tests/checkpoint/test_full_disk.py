"""A disk that is full while a checkpoint is written: a real one of a mebibyte, or a quota."""

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch import nn

from detengine.checkpoint.checkpointer import Checkpointer

PAGE = 4096


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 512 KiB."""
    place = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def make_run(folder: Path, *, background: bool) -> Checkpointer:
    return Checkpointer(nn.Linear(100, 100), save_dir=folder, background=background)


def save(run: Checkpointer, iteration: int) -> None:
    nn.init.constant_(run.model.weight, iteration)
    run.save(f"model_{iteration:07d}", iteration=iteration)
    run.wait()


def resumed_at(folder: Path) -> int:
    run = make_run(folder, background=False)
    iteration = run.resume()["iteration"]
    assert run.model.weight.unique().tolist() == [iteration]
    return iteration


def fill_but(disk: Path, pages: int) -> None:
    """Leave so many pages free."""
    room = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes((room.f_bavail - pages) * room.f_frsize))


@pytest.mark.parametrize("background", [False, True])
def test_full_at_any_page_of_a_save_the_one_before_is_intact_and_nothing_is_left(
    small_disk: Path, background: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    failures = 0
    for pages in range(20):
        folder = small_disk / f"{background}_{pages}"
        run = make_run(folder, background=background)
        save(run, 1)
        fill_but(small_disk, pages)
        try:
            save(run, 2)
        except OSError as error:
            failures += 1
            assert error.errno == errno.ENOSPC
            message = rf"cannot write .*No space left.* MiB are free in {folder}; make room there"
            pytest.raises(OSError, _raise, error).match(message)
            assert (folder / "last_checkpoint").read_text() == "model_0000001.pth\n"
        assert not list(folder.glob("*.tmp"))
        assert all(path.with_suffix("").exists() for path in folder.glob("*.sha256"))
        assert resumed_at(folder) == 1 + (pages >= 20 - (20 - failures))
        (small_disk / "filler").unlink()
        save(run, 3)
        assert resumed_at(folder) == 3
        for path in folder.iterdir():
            path.unlink()
    assert 5 < failures < 20  # some in the tensors, some in the small files behind them


def _raise(error: Exception) -> None:
    raise error


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(sys.platform == "win32", reason="no quotas there")
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("size", [0, 10, 100, 5_000, 20_000, 40_000])
def test_over_a_quota_the_one_before_is_intact_and_nothing_is_left(
    tmp_path: Path, background: bool, size: int
) -> None:
    run = make_run(tmp_path, background=background)
    save(run, 1)
    with largest_file(size), pytest.raises(OSError, match=r"cannot write .*: .* MiB are free in"):
        save(run, 2)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["last_checkpoint", "model_0000001.pth", "model_0000001.pth.sha256"]
    assert resumed_at(tmp_path) == 1

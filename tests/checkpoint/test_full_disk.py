"""A disk that is full while a checkpoint is written: a real one of a mebibyte, or a quota."""

import errno
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from detengine.checkpoint.checkpointer import Checkpointer
from full_disk import largest_file

pytestmark = pytest.mark.faults


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


def problem_of_saving(run: Checkpointer, iteration: int) -> OSError | None:
    try:
        save(run, iteration)
    except OSError as error:
        return error
    return None


@pytest.mark.parametrize("background", [False, True])
def test_full_at_any_page_of_a_save_the_one_before_is_intact_and_nothing_is_left(
    new_disk: Any, background: bool, record_fault: Any
) -> None:
    problems, small_disk = [], new_disk(128).place
    for pages in range(20):
        folder = small_disk / f"{background}_{pages}"
        run = make_run(folder, background=background)
        save(run, 1)
        fill_but(small_disk, pages)
        problem = problem_of_saving(run, 2)
        last = (folder / "last_checkpoint").read_text()
        assert last == f"model_000000{1 if problem else 2}.pth\n"
        assert resumed_at(folder) == (1 if problem else 2)
        assert not list(folder.glob("*.tmp"))
        assert all(path.with_suffix("").exists() for path in folder.glob("*.sha256"))
        (small_disk / "filler").unlink()
        save(run, 3)
        assert resumed_at(folder) == 3
        shutil.rmtree(folder)
        problems.append(problem)
    failed = [problem is not None for problem in problems]
    assert failed == sorted(failed, reverse=True)
    assert 10 < sum(failed) < 20  # in the tensors, and in the small files behind them
    for problem in filter(None, problems):
        assert problem.errno == errno.ENOSPC
        message = rf"cannot write .*: No space left .*; 0 MiB are free in {small_disk}.*; make room"
        assert re.search(message, str(problem))
    how = "in the background" if background else "in the foreground"
    record_fault(
        "Disks",
        f"full while a checkpoint is written {how}",
        made="a tmpfs on which 0 to 19 pages of 4 KiB are free",
        promised="an error with the reason; the checkpoint before is whole and the last one",
        tried=f"{len(problems)} numbers of pages",
        happened=f"{sum(failed)} failed so, {len(problems) - sum(failed)} had room",
    )


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

"""Room on disk and in shared memory, against what a training needs."""

from pathlib import Path
from typing import Any

import pytest

from detengine.config.load import load_config
from detengine.config.schema import Config
from detengine.doctor.room import (
    check_disk,
    check_shared_memory,
    folder_on_the_disk_of,
    in_mib,
    number_of_checkpoints,
)


def configured(**solver: Any) -> Config:
    pairs = [word for key, value in solver.items() for word in (f"SOLVER.{key}", value)]
    return load_config(None, ["CONVENTIONS", "modern", *pairs])


@pytest.mark.parametrize(
    ("solver", "number"),
    [
        ({"MAX_ITER": 1000, "CHECKPOINT_PERIOD": 300}, 4),  # 300, 600, 900, final
        ({"MAX_ITER": 900, "CHECKPOINT_PERIOD": 300}, 4),
        ({"MAX_ITER": 900, "CHECKPOINT_PERIOD": 300, "KEEP_CHECKPOINTS": 1}, 3),
        ({"MAX_ITER": 100, "CHECKPOINT_PERIOD": 300}, 1),
    ],
)
def test_checkpoints_are_counted_as_they_are_written(solver: dict[str, int], number: int) -> None:
    assert number_of_checkpoints(configured(**solver)) == number


def test_a_disk_that_is_too_small_is_an_error_with_both_numbers() -> None:
    cfg = configured(MAX_ITER=900, CHECKPOINT_PERIOD=300)
    assert check_disk(cfg, 1) == []
    [finding] = check_disk(cfg, 2**60)
    assert finding.severity == "error"
    assert f"4 checkpoints of {in_mib(2**60)} need {in_mib(2**62)}" in finding.what
    assert "SOLVER.KEEP_CHECKPOINTS" in finding.cure


def test_shared_memory_is_needed_by_every_process_of_every_rank(tmp_path: Path) -> None:
    cfg = load_config(None, ["DATALOADER.NUM_WORKERS", 2])
    assert check_shared_memory(cfg, 2**20 - 64, 4, tmp_path) == []
    [finding] = check_shared_memory(cfg, 2**50 - 64, 4, tmp_path)
    assert (finding.severity, finding.where) == ("error", str(tmp_path))
    assert f"8 loading processes may need {in_mib(2**55)}" in finding.what
    none = load_config(None, ["DATALOADER.NUM_WORKERS", 0])
    assert check_shared_memory(none, 2**50, 4, tmp_path) == []
    assert check_shared_memory(cfg, 2**50, 4, tmp_path / "no_such_folder") == []


@pytest.mark.parametrize("output_folder", ["runs/new", "runs"])
def test_the_temporary_folder_is_outside_of_the_runs_own_and_is_removed(
    tmp_path: Path, output_folder: str
) -> None:
    (tmp_path / "runs").mkdir()
    run = tmp_path / output_folder
    with folder_on_the_disk_of(run) as folder:
        assert folder.is_dir()
        assert run not in folder.parents
        assert tmp_path in folder.parents
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["runs"]

import logging
from pathlib import Path

import pytest
import torch

from detengine.checkpoint import history
from detengine.checkpoint.files import load_file, save_file


def write(folder: Path, name: str, iteration: int) -> Path:
    path = folder / f"{name}.pth"
    save_file(path, {"model": {"weight": torch.ones(2)}, "iteration": iteration})
    return path


def names(folder: Path) -> list[str]:
    return [path.stem for path in history.candidates(folder)]


def test_the_name_tells_the_iteration() -> None:
    assert history.checkpoint_name(2500) == "model_0002500"
    assert history.checkpoint_name(12345678) == "model_12345678"


def test_a_run_killed_before_its_first_last_checkpoint_can_be_resumed(tmp_path: Path) -> None:
    assert not history.has_checkpoint(tmp_path)
    write(tmp_path, "model_0000002", 2)
    assert history.has_checkpoint(tmp_path)
    assert names(tmp_path) == ["model_0000002"]


def test_files_of_other_names_are_no_run(tmp_path: Path) -> None:
    for name in ("weights", "model_zoo", "model_1"):
        write(tmp_path, name, 1)
    (tmp_path / "model_0000003.pth").mkdir()
    assert not history.has_checkpoint(tmp_path)
    assert names(tmp_path) == []


def test_the_last_comes_first_then_by_iteration_and_the_best_at_the_end(tmp_path: Path) -> None:
    write(tmp_path, "model_best", 9)
    write(tmp_path, "model_final", 5)  # of a run that was then given more iterations
    for iteration in (4, 10, 5, 2):
        write(tmp_path, history.checkpoint_name(iteration), iteration)
    history.write_last(tmp_path, "model_0000004.pth")
    assert names(tmp_path) == [
        "model_0000004", "model_0000010", "model_final", "model_0000005", "model_0000002",
        "model_best",
    ]  # fmt: skip


def test_a_file_too_damaged_to_tell_its_iteration_is_placed_by_its_name(tmp_path: Path) -> None:
    for iteration in (2, 4, 6):
        write(tmp_path, history.checkpoint_name(iteration), iteration)
    (tmp_path / "model_0000004.pth").write_bytes(b"PK")
    assert names(tmp_path) == ["model_0000006", "model_0000004", "model_0000002"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xff\xfe", "cannot be read"),
        (b"model_0000009.pth\n", "names 'model_0000009.pth', which is no file of this folder"),
        (b"../elsewhere/model_0000001.pth\n", "which is no file of this folder"),
        (b"model_0000001.pth\x00\n", "which is no file of this folder"),
        (b".\n", "which is no file of this folder"),
    ],
)
def test_a_last_checkpoint_that_names_no_file_is_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, reason: str
) -> None:
    for iteration in (1, 2):
        write(tmp_path, history.checkpoint_name(iteration), iteration)
    (tmp_path / "last_checkpoint").write_bytes(content)
    assert names(tmp_path) == ["model_0000002", "model_0000001"]
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert reason in record.getMessage()


def test_the_path_that_the_predecessor_wrote_is_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, "model_0000001", 1)
    write(tmp_path, "model_0000002", 2)
    (tmp_path / "last_checkpoint").write_text(str(path))
    assert names(tmp_path) == ["model_0000002", "model_0000001"]
    assert "no file of this folder" in caplog.text


def test_where_none_is_whole_the_error_gives_each_files_reason_and_the_cure(tmp_path: Path) -> None:
    write(tmp_path, "model_0000001", 1).write_bytes(b"")
    write(tmp_path, "model_0000002", 2).write_bytes(b"PK")
    with pytest.raises(ValueError, match="is whole, so its run cannot go on") as raised:
        history.read_newest(tmp_path, load_file)
    _, newer, older, cure = str(raised.value).splitlines()
    assert newer.startswith("  model_0000002.pth: the checkpoint")
    assert "is damaged: its sha256" in newer
    assert older.startswith("  model_0000001.pth: the checkpoint")
    assert "is empty" in older
    assert "start the run anew in another OUTPUT_DIR" in cure


def test_the_newest_are_kept_and_what_has_no_number(tmp_path: Path) -> None:
    for iteration in (2, 4, 6, 10):
        saved = write(tmp_path, history.checkpoint_name(iteration), iteration)
    write(tmp_path, "model_best", 4)
    write(tmp_path, "model_final", 10)
    write(tmp_path, "weights", 1)
    history.remove_older(tmp_path, 2, saved)
    kept = ["model_0000006", "model_0000010", "model_best", "model_final", "weights"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [f"{name}.pth" for name in kept] + [f"{name}.pth.sha256" for name in kept]
    )


def test_later_checkpoints_of_a_run_that_was_sent_back_stay(tmp_path: Path) -> None:
    for iteration in (0, 2, 8, 10):
        write(tmp_path, history.checkpoint_name(iteration), iteration)
    history.remove_older(tmp_path, 1, saved=write(tmp_path, "model_0000004", 4))
    kept = sorted(path.stem for path in tmp_path.glob("*.pth"))
    assert kept == ["model_0000004", "model_0000008", "model_0000010"]


def test_only_what_a_killed_run_of_ours_left_is_removed(tmp_path: Path) -> None:
    write(tmp_path, "model_0000002", 2)
    ours = ["model_0000004.pth.tmp", "model_0000004.pth.sha256.tmp", "last_checkpoint.tmp",
            "model_0000004.pth.sha256"]  # fmt: skip
    theirs = ["notes.tmp", "weights.pth.tmp", "model_zoo.pth.sha256"]
    for name in ours + theirs:
        (tmp_path / name).touch()
    history.remove_leftovers(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"model_0000002.pth", "model_0000002.pth.sha256", *theirs}


@pytest.mark.parametrize("name", ["../outside", "a/b", ""])
def test_a_checkpoint_stays_in_its_folder(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be called"):
        history.raise_if_no_file_name(name)


def test_a_folder_whose_checkpoints_were_deleted_holds_no_run(tmp_path: Path) -> None:
    history.write_last(tmp_path, "model_0000005.pth")
    assert not history.has_checkpoint(tmp_path)

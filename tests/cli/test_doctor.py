"""`detengine doctor`: what it prints, the file that it writes, and its exit codes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


def words(text: str) -> str:
    """However lines were broken."""
    return " ".join(text.split())


@pytest.fixture
def config(write_tiny_run: Callable[[Path], Path], tmp_path: Path) -> Path:
    """A tiny run whose data may be spoiled."""
    return write_tiny_run(tmp_path)


def test_without_an_error_it_ends_with_0_and_strictly_with_1_at_a_warning(
    detengine: Command, tiny_config: Path
) -> None:
    arguments = ("doctor", "-c", tiny_config, "--no-model")
    finished = detengine(*arguments)
    assert finished.code == 0
    assert "warning: shapes_train\n  rare classes: disc (4 objects)" in finished.out
    assert finished.out.endswith("Found: 1 warning, 1 note.\n")
    assert finished.err == "reading shapes_train ...\nreading shapes_val ...\n"
    assert detengine(*arguments, "--strict").code == 1


def test_an_error_is_printed_first_with_its_place_and_its_cure(
    detengine: Command, config: Path
) -> None:
    (config.parent / "images/val_1.jpg").unlink()
    finished = detengine("doctor", "-c", config, "--no-model")
    assert finished.code == 1
    first = finished.out[finished.out.index("error: ") :].split("\nwarning: ")[0]
    assert first.startswith("error: shapes_val\n  ")
    assert "val_1.jpg" in first
    assert "-> Put it there, or take it out" in first


def test_tables_show_data_classes_anchors_and_steps(detengine: Command, tiny_config: Path) -> None:
    finished = detengine("doctor", "-c", tiny_config)
    assert finished.code == 0
    lines = [line.split() for line in finished.out.splitlines()]
    assert ["shapes_train", "7", "0", "1", "10"] in lines
    assert ["disc", "4", "3"] in lines
    assert any(line[:2] == ["step", "3"] for line in lines)
    assert "best anchor below IoU 0.5" in finished.out
    assert "a checkpoint has" in finished.out
    assert "the loader alone gives" in finished.out


def test_the_file_has_what_was_printed(
    detengine: Command, tiny_config: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    detengine("doctor", "-c", tiny_config, "--no-model", "--output-dir", folder)
    content = json.loads((folder / "doctor.json").read_text())
    assert [each["severity"] for each in content["findings"]] == ["warning", "note"]
    assert content["data_sets"]["shapes_train"]["images"] == 7
    assert content["dry_run"] is None


def test_a_class_name_that_turns_the_line_around_is_shown_by_escapes(
    detengine: Command, config: Path
) -> None:
    for split in ("train", "val"):
        path = config.with_name(f"{split}.json")
        path.write_text(path.read_text().replace('"disc"', '"di\\u202esc"'))
    finished = detengine("doctor", "-c", config, "--no-model")
    assert "\u202e" not in finished.out + finished.err
    lines = [line.split() for line in finished.out.splitlines()]
    assert [r"di\u202esc", "4", "3"] in lines


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["SOLVER.BASE_LT", "1"], "unknown key SOLVER.BASE_LT; did you mean SOLVER.BASE_LR?"),
        (["MODEL.DEVICE", "tpu"], "MODEL.DEVICE is 'tpu'"),
    ],
)
def test_a_configuration_that_cannot_be_is_a_finding(
    detengine: Command, tiny_config: Path, overrides: list[str], said: str
) -> None:
    finished = detengine("doctor", "-c", tiny_config, *overrides)
    assert finished.code == 1
    assert said in words(finished.out)


def test_a_file_that_is_not_there_is_a_finding(detengine: Command, tmp_path: Path) -> None:
    finished = detengine("doctor", "-c", tmp_path / "gone.yaml")
    assert (finished.code, "cannot be read" in finished.out) == (1, True)


def test_a_folder_of_data_is_looked_at_like_a_run(
    detengine: Command, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETENGINE_CACHE", str(config.parent / "no_weights"))
    finished = detengine("doctor", "--data", config.parent / "voc", "--no-model")
    assert finished.code == 0
    assert "PASCAL VOC" in finished.err
    assert "voc_train" in finished.out


def test_a_folder_that_is_too_broken_to_choose_a_model_for_is_looked_at_all_the_same(
    detengine: Command, config: Path
) -> None:
    for name in ("train_0", "train_1"):
        page = config.parent / f"voc/Annotations/{name}.xml"
        page.write_text(page.read_text().replace("<xmax>", "<xmax>-"))
    finished = detengine("doctor", "--data", config.parent / "voc")
    assert finished.code == 1
    assert "has a negative size" in words(finished.out)
    assert "4 are like this: annotation 1 (train_0.jpg), annotation 2" in words(finished.out)
    assert "no model was tried" in words(finished.out)


def test_an_empty_folder_is_said_clearly(detengine: Command, tmp_path: Path) -> None:
    finished = detengine("doctor", "--data", tmp_path)
    assert finished.code == 1
    assert "no data set was recognised" in words(finished.out)
    assert "it is empty" in words(finished.out)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-c", "a.yaml", "--data", "a"],
        ["-c", "a.yaml", "--weights", "a.pth"],
        ["-c", "a.yaml", "--nproc", "0"],
    ],
)
def test_wrong_use_ends_with_2(detengine: Command, arguments: list[str]) -> None:
    assert detengine("doctor", *arguments).code == 2

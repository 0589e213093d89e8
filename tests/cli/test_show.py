"""`detengine show`: where it writes, and wrong use."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


def test_page_and_pictures_are_in_a_folder_of_the_data_sets_name(
    detengine: Command, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("show", "shapes_val", "-c", tiny_config, "--count", "1", "--draws", "1")
    finished = detengine(*arguments, "INPUT.BRIGHTNESS", "0.5")
    assert finished.code == 0
    assert "wrote show-shapes_val/index.html" in finished.out
    assert len(list(Path("show-shapes_val/pictures").iterdir())) == 2
    assert detengine(*arguments, "--output-dir", "elsewhere").code == 0
    assert Path("elsewhere/index.html").is_file()


def test_of_a_folder_of_data_the_splits_have_short_names(
    detengine: Command, tiny_config: Path, tmp_path: Path
) -> None:
    data = tiny_config.parent / "voc"
    arguments = ("--data", data, "--count", "1", "--draws", "0", "--output-dir", tmp_path)
    assert detengine("show", "val", *arguments).code == 0
    assert "<h1>voc_val</h1>" in (tmp_path / "index.html").read_text()


def test_images_that_cannot_be_shown_are_counted_on_the_terminal(
    detengine: Command,
    write_tiny_run: Callable[[Path], Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = write_tiny_run(tmp_path)
    (tmp_path / "images/val_1.jpg").write_text("text")
    code, _, _ = detengine("show", "shapes_val", "-c", config, "--output-dir", tmp_path / "shown")
    assert code == 0
    assert caplog.messages == ["1 of 4 images cannot be shown; the page says why"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["shapes_val"], 2),
        (["shapes_val", "-c", "{config}", "--images", "a,b"], 2),
        (["shapes_val", "-c", "{config}", "--images", "5"], 1),
        (["shape_val", "-c", "{config}"], 1),
        (["shapes_val", "-c", "gone.yaml"], 1),
    ],
)
def test_what_cannot_be_shown_is_said(
    detengine: Command, tiny_config: Path, tmp_path: Path, arguments: list[str], code: int
) -> None:
    given = [each.format(config=tiny_config) for each in arguments]
    finished = detengine("show", *given, "--output-dir", tmp_path)
    assert finished.code == code
    assert finished.err

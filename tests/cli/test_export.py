"""detengine export, as a user types it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modeling.exportable_models import needs_exporter

Command = Callable[..., Any]


@needs_exporter
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("out.bin",), "error: out.bin is to be an ONNX file; give it a name that ends with .onnx"),
        (("out.onnx", "--opset", "9"), "error: opset 9 was asked for; expected 18 to 20"),
        (("out.onnx", "TEST.BBOX_AUG.ENABLED", "True"), "append TEST.BBOX_AUG.ENABLED False"),
        (("out.onnx", "--check", "missing.png"), "missing.png"),
    ],
)
def test_what_cannot_be_is_one_paragraph_and_leaves_no_file(
    arguments: tuple[str, ...],
    message: str,
    detengine: Command,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    finished = detengine("export", finished_run, *arguments)
    assert finished.code == 1
    assert message in finished.err
    assert "Traceback" not in finished.err
    assert not list(tmp_path.iterdir())


def test_a_second_picture_behind_one_check_is_explained(
    detengine: Command, finished_run: Path
) -> None:
    finished = detengine("export", finished_run, "out.onnx", "--check", __file__, __file__)
    assert finished.code == 2
    assert "write --check before each" in " ".join(finished.err.replace("│", " ").split())


@needs_exporter
@pytest.mark.slow
def test_a_run_is_exported_and_the_comparison_printed(
    detengine: Command, finished_run: Path, tmp_path: Path
) -> None:
    finished = detengine(
        "export", finished_run, tmp_path / "out.onnx", "MODEL.ROI_HEADS.SCORE_THRESH", "0.01"
    )
    assert (finished.code, finished.err) == (0, "")
    assert f"wrote {tmp_path / 'out.onnx'} (" in finished.out
    assert "compared with the model: " in finished.out
    assert [each.name for each in tmp_path.iterdir()] == ["out.onnx"]

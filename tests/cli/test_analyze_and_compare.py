"""Stored predictions explained and compared from the command line."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
Store = Callable[..., Path]


def test_analyze_prints_the_tables_and_writes_one_file(
    detengine: Command, store: Store, tiny_config: Path, tmp_path: Path
) -> None:
    stored, output = store("run", every=2), tmp_path / "why"
    finished = detengine("analyze", stored, "-c", tiny_config, "--output-dir", output)
    assert (finished.code, finished.err) == (0, "")
    assert re.search(r"\n  missed +3 ", finished.out)
    assert f"wrote {output / 'analysis.json'}" in finished.out
    assert [path.name for path in output.iterdir()] == ["analysis.json"]
    assert json.loads((output / "analysis.json").read_text())["errors"]["kinds"]["missed"]["count"]
    # the truth from a file of annotations alone, without pictures, and nothing written
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(tiny_config.with_name("val.json"), alone / "val.json")
    again = detengine("analyze", stored, "--annotations", alone / "val.json")
    assert (again.code, again.err) == (0, "")
    assert again.out.strip() == finished.out.partition("\nwrote ")[0].strip()


def test_compare_prints_the_differences_and_writes_one_file(
    detengine: Command, store: Store, tiny_config: Path, tmp_path: Path
) -> None:
    a, b, output = store("a", every=2), store("b", every=1), tmp_path / "compared"
    options = ["-c", tiny_config, "--samples", "50", "--output-dir", output]
    finished = detengine("compare", a, b, *options)
    assert (finished.code, finished.err) == (0, "")
    assert finished.out.startswith(f"A is {a}\nB is {b}\n\nbbox, 4 images: B - A in points")
    assert [path.name for path in output.iterdir()] == ["comparison.json"]
    content = json.loads((output / "comparison.json").read_text())
    assert content["samples"] == 50
    assert content["metrics"]["AP"]["b"] == pytest.approx(1)
    # the options that come with the configuration hold here, too
    finished = detengine("compare", a, b, *options, "TEST.IOU_THRESHOLDS", "[0.5]")
    assert "\nAP75 " not in finished.out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["{stored}"], 2, "Give the ground truth: -c FILE, or --annotations GT.json"),
        (["{stored}", "-c", "{config}", "--annotations", "x"], 2, "Give the ground truth"),
        (["{stored}", "-c", "{config}", "--nothing", "1"], 2, "No such option: --nothing"),
        (["{stored}", "--annotations", "gone.json"], 1, "there is no file gone.json"),
        (["gone", "-c", "{config}"], 1, "there are no predictions at gone: expected"),
        (["{folder}", "-c", "{config}"], 1, "expected predictions.pth in it, or its path"),
        (["{stored}", "-c", "{config}", "--iou-type", "box"], 2, "--iou-type is 'box', but is one"),
        (["{stored}", "-c", "{config}", "--output-dir", "{config}"], 1, "the output folder"),
        (["{stored}", "-c", "{config}", "--score-threshold", "nan"], 1, "but must be a score"),
        (["{stored}", "-c", "{config}", "--iou-type", "segm"], 1, "segm is to be scored and needs"),
        (["{other}", "-c", "{config}", "DATASETS.TEST", "[shapes_train, voc_val]"], 1, "and none"),
        (
            ["{stored}", "-c", "{config}", "DATASETS.TEST", "[shapes_train]"],
            1,
            "is it another image",
        ),
    ],
)
def test_what_is_amiss_is_one_clear_error(
    detengine: Command,
    store: Store,
    tiny_config: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    places = {
        "stored": store("run", every=1),
        "other": store("run", every=1, test_set="other"),
        "config": tiny_config,
        "folder": tmp_path,
    }
    given = [each.format(**places) for each in arguments]
    finished = detengine("analyze", *given)
    assert finished.code == code
    text = " ".join(re.sub(r"[╭─╮│╰╯]|\x1b\[[\d;]*m", " ", finished.err).split())
    assert said in text
    assert "Traceback" not in finished.out + finished.err


def test_predictions_of_two_test_sets_are_not_compared(
    detengine: Command, store: Store, tiny_config: Path
) -> None:
    a, b = store("a", every=1), store("b", every=1, test_set="voc_val")
    both = "[shapes_val, voc_val]"
    finished = detengine("compare", a, b, "-c", tiny_config, "DATASETS.TEST", both)
    assert finished.code == 1
    assert "the predictions are of different test sets: shapes_val, voc_val" in finished.err

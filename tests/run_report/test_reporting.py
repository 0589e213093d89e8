"""A run's page, from what its folder holds: all of it, or what is left."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from detengine.evaluation.analysis_result import Analysis
from detengine.evaluation.result import EvaluationResult
from detengine.report.study import Study
from detengine.run_report.record import ENVIRONMENT, load_sessions
from detengine.run_report.reporting import write_comparison, write_report
from report_page import Page
from report_runs import EVIL, SECTIONS, make_config, write_evil_run, write_run


def test_a_scored_runs_page_has_every_section_filled(tiny_config: Path, tmp_path: Path) -> None:
    run = write_run(make_config(tiny_config, tmp_path / "run"), every=2)
    page = Page(write_report(run))
    assert list(page.sections)[1:] == SECTIONS
    assert "finished" in page.sections[""]
    assert "loss_box_reg" in page.sections["losses"]
    assert re.search(r"\bbbox on shapes_val\b", page.sections["scores"])
    for name in ("disc", "bar", "wedge", "mean of all classes"):
        assert name in page.sections["curves"]
    assert re.search(r"missed an object that nothing found 3\b", page.sections["errors"])
    assert "truth ↓ found as →" in page.sections["confusion"]
    assert "val_1.jpg" in page.sections["images"]
    assert "The expected error is" in page.sections["calibration"]
    assert "waiting for data" in page.sections["time"]
    assert torch.__version__ in page.sections["environment"]
    assert "MODEL.RPN.ANCHOR_STRIDE" in page.sections["configuration"]
    assert f"detengine train -c {run}/config.yaml --resume" in page.sections["again"]
    assert len(page.images) >= 4
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.images)
    assert (run / "report.html").stat().st_size < 1_500_000


def test_a_run_without_evaluation_says_so_and_shows_the_rest(
    tiny_config: Path, tmp_path: Path
) -> None:
    run = write_run(make_config(tiny_config, tmp_path / "run"), scored=False, state="running")
    page = Page(write_report(run))
    assert list(page.sections)[1:] == SECTIONS
    assert "There is no evaluation yet" in page.sections["scores"]
    for section in ("curves", "errors", "confusion", "images", "calibration"):
        assert "There is no evaluation yet" in page.sections[section]
    assert "total loss" in page.sections["losses"]


def test_a_killed_run_is_shown_as_far_as_it_came(tiny_config: Path, tmp_path: Path) -> None:
    cfg = make_config(tiny_config, tmp_path / "run", {"SOLVER.MAX_ITER": 90})
    gone = 2**22 - 3  # above the largest number a process has by default
    run = write_run(cfg, scored=False, state="running", process=gone)
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"iteration": 6, "train/lo')
    page = Page(write_report(run))
    assert "interrupted" in page.sections[""]
    assert "Iteration 4 of 90, when it was last heard of" in page.sections[""]
    assert "1 line of metrics.jsonl cannot be read" in page.sections["warnings"]
    assert "total loss" in page.sections["losses"]


def test_a_run_that_this_process_makes_is_running(tiny_config: Path, tmp_path: Path) -> None:
    run = write_run(make_config(tiny_config, tmp_path / "run"), state="running")
    assert load_sessions(run)[0].process == os.getpid()
    assert "running" in Page(write_report(run)).sections[""]


def test_a_run_of_before_there_were_records_is_reported_on(
    tiny_config: Path, tmp_path: Path
) -> None:
    run = write_run(make_config(tiny_config, tmp_path / "run"), state=None)
    page = Page(write_report(run))
    assert "nothing in the folder says how it ended" in page.sections[""]
    assert "environment.json, which an earlier version" in page.sections["environment"]
    assert "environment.json, which an earlier version" in page.sections["time"]
    (run / "model_final.pth").touch()
    assert "finished" in Page(write_report(run)).sections[""]


def test_a_damaged_record_or_result_is_named_and_left_out(
    tiny_config: Path, tmp_path: Path
) -> None:
    run = write_run(make_config(tiny_config, tmp_path / "run"))
    (run / ENVIRONMENT).write_text("{")
    (run / "results.json").write_text('{"shapes_val": [1]}')
    page = Page(write_report(run))
    assert "environment.json is no record of a run" in page.sections["warnings"]
    left_out = "results.json cannot be read and is left out: it does not hold numbers by test set"
    assert left_out in page.sections["warnings"]
    assert "mean of all classes" in page.sections["curves"]


@pytest.mark.parametrize("moved", ["annotations", "images", "predictions"])
def test_what_has_been_moved_away_is_said_and_the_rest_is_shown(
    write_tiny_run: Callable[[Path], Path], tmp_path: Path, moved: str
) -> None:
    (tmp_path / "data").mkdir()
    cfg = make_config(write_tiny_run(tmp_path / "data"), tmp_path / "run")
    run = write_run(cfg)
    if moved == "annotations":
        shutil.rmtree(tmp_path / "data")
        expected = "There are no images of shapes_val: the data set cannot be read"
    elif moved == "images":
        shutil.rmtree(tmp_path / "data" / "images")
        expected = "There are no images of shapes_val: the images cannot be read"
    else:
        shutil.rmtree(run / "inference")
        expected = "there are no predictions at"
    page = Page(write_report(run))
    assert expected in page.sections["images"]
    assert ("mean of all classes" in page.sections["curves"]) == (moved == "images")
    assert "bbox on shapes_val" in page.sections["scores"]
    assert re.search(r"\bbbox \d+\.\d ", page.sections["scores"])


def test_relative_data_are_found_where_the_run_was_started(
    write_tiny_run: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"
    started.mkdir()
    tiny = write_tiny_run(started)
    monkeypatch.chdir(started)
    cfg = make_config(tiny, tmp_path / "run", {"DATASETS.ROOT": "."})
    run = write_run(cfg)
    monkeypatch.chdir(tmp_path)
    assert Page(write_report(run)).images


def test_what_an_analysis_leaves_open_is_said_as_for_keypoints(
    tiny_config: Path, tmp_path: Path
) -> None:
    run = write_run(make_config(tiny_config, tmp_path / "run"))
    reasons = {part: f"no {part} here" for part in ("errors", "confusion", "calibration")}
    analysis = Analysis(
        iou_type="keypoints",
        iou_threshold=0.5,
        score_threshold=0.5,
        scores=EvaluationResult({}, {}, 4),
        errors=None,
        confusion=None,
        curves=(),
        worst_images=(),
        calibration=None,
        reasons=reasons,
    )
    studies = [Study("shapes_val", analyses={"keypoints": analysis})]
    page = Page(write_report(run, studies=studies))
    for section, reason in reasons.items():
        assert f"{reason}." in page.sections[section]
    assert "No object is to be found" in page.sections["curves"]
    assert "No image has a hit or an error" in page.sections["images"]


def test_proposals_have_no_classes_to_analyse(tiny_config: Path, tmp_path: Path) -> None:
    run = write_run(make_config(tiny_config, tmp_path / "run", {"MODEL.RPN_ONLY": True}))
    page = Page(write_report(run))
    assert "the model gives proposals, which have no class" in page.sections["confusion"]
    assert "total loss" in page.sections["losses"]


def test_a_log_tells_its_warnings_once_with_all_their_lines(
    tiny_config: Path, tmp_path: Path
) -> None:
    run = write_run(make_config(tiny_config, tmp_path / "run"))
    stamp = "2026-01-01 00:00:00,000 detengine.data "
    lines = ["WARNING: two boxes\n  1, 2", "INFO: nothing", "WARNING: two boxes\n  1, 2"]
    (run / "log.txt").write_text("".join(f"{stamp}{line}\n" for line in lines))
    page = Page(write_report(run))
    assert "two boxes 1, 2 (2 times)" in page.sections["warnings"]
    assert "nothing" not in page.sections["warnings"]


def test_names_that_are_markup_are_shown_as_text(tiny_config: Path, tmp_path: Path) -> None:
    run = write_evil_run(tiny_config, tmp_path)
    page = Page(write_report(run))
    text = " ".join(page.sections.values())
    assert page.tags.count("script") == 1
    assert "u" not in page.tags
    for section in ("losses", "curves", "confusion", "warnings"):
        assert EVIL in page.sections[section]
    assert '"><img src=x onerror=alert(1)>.jpg' in page.sections["images"]
    assert "<svg onload=alert(1)>val" in page.sections["configuration"]
    assert f"detengine {EVIL}" in text
    assert len(page.images) == page.tags.count("img")
    assert "x" not in page.images


def test_a_folder_without_a_run_is_an_error_that_names_runs_below_it(
    tiny_config: Path, tmp_path: Path
) -> None:
    write_run(make_config(tiny_config, tmp_path / "mine"), scored=False)
    with pytest.raises(FileNotFoundError, match=r"holds no run: config.yaml .* below it, mine may"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_another_file_is_not_overwritten(tiny_config: Path, tmp_path: Path) -> None:
    run = write_run(make_config(tiny_config, tmp_path / "run"), scored=False)
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine")
    with pytest.raises(FileExistsError, match=r"mine.html is there already and is no report"):
        write_report(run, output=mine)
    assert mine.read_text() == "<p>mine"
    other = write_report(run, output=tmp_path / "new" / "page.html")
    assert write_report(run, output=other) == other  # its own page it makes anew


def test_two_runs_are_compared_with_intervals_and_differences(
    tiny_config: Path, tmp_path: Path
) -> None:
    a = write_run(make_config(tiny_config, tmp_path / "a"), every=2)
    b = write_run(make_config(tiny_config, tmp_path / "b", {"SEED": 7}))
    page = Page(write_comparison([a, b], tmp_path / "both.html", samples=50))
    assert "b minus a, in points, on the same 4 images" in page.sections["intervals"]
    assert "50 draws" in page.sections["intervals"]
    assert re.search(r"SEED 0 7\b", page.sections["differences"])
    assert "total loss" in page.sections["losses"]
    assert re.search(r"disc \d+\.\d \d+\.\d", page.sections["scores"])
    assert "Everything in the folders could be read" in page.sections["problems"]


def test_runs_of_different_test_sets_and_classes_are_shown_side_by_side(
    tiny_config: Path, tmp_path: Path
) -> None:
    a = write_run(make_config(tiny_config, tmp_path / "a"))
    b = write_run(make_config(tiny_config, tmp_path / "b", {"DATASETS.TEST": ("shapes_train",)}))
    page = Page(write_comparison([a, b], tmp_path / "both.html", samples=20))
    assert "The runs have no scored test set in common" in page.sections["intervals"]
    assert (
        "the first was scored on shapes_val, the second on shapes_train"
        in (page.sections["intervals"])
    )
    assert "bbox on shapes_train" in page.sections["scores"]
    c = write_run(make_config(tiny_config, tmp_path / "c"), scored=False)
    page = Page(write_comparison([a, b, c], tmp_path / "three.html"))
    assert "Intervals are of two runs; 3 were given" in page.sections["intervals"]


def test_runs_without_a_class_in_common_get_no_intervals_but_the_reason(
    tiny_config: Path, tmp_path: Path
) -> None:
    a = write_run(make_config(tiny_config, tmp_path / "a"))
    b = write_run(make_config(tiny_config, tmp_path / "b"))
    stored = b / "inference" / "shapes_val" / "predictions.pth"
    columns = torch.load(stored, weights_only=True)
    torch.save({**columns, "categories": ["x", "y", "z"]}, stored)
    page = Page(write_comparison([a, b], tmp_path / "both.html", samples=20))
    assert (
        "There are no intervals: predictions B: the model and the data set have no class in common"
        in (page.sections["intervals"])
    )


def test_a_run_is_not_compared_with_itself(tiny_config: Path, tmp_path: Path) -> None:
    run = write_run(make_config(tiny_config, tmp_path / "run"), scored=False)
    with pytest.raises(ValueError, match="a run is compared with itself"):
        write_comparison([run, run / ".." / "run"], tmp_path / "both.html")

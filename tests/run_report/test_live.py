"""Runs that report on themselves: what stands in their folders, whatever becomes of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detengine.checkpoint.files import load_file
from detengine.config.load import load_config, replace
from detengine.data.dataset import DetectionDataset
from detengine.run import evaluate, train
from detengine.run_report import reporting
from detengine.run_report.record import ENVIRONMENT, load_sessions
from detengine.run_report.reporting import write_report
from report_page import Page
from report_runs import make_config


@pytest.fixture(scope="module")
def reported(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of four iterations that scored itself twice and was resumed from the second."""
    folder = tmp_path_factory.mktemp("reported") / "run"
    changes = {"OUTPUT_DIR": str(folder), "REPORT": True, "SOLVER.TEST_PERIOD": 2}
    cfg = replace(load_config(tiny_config), changes | {"SOLVER.SCHEDULE": "multistep"})
    train(replace(cfg, {"SOLVER.MAX_ITER": 2}))
    train(cfg, resume=True)
    return folder


def test_a_training_leaves_its_record_and_its_page(reported: Path) -> None:
    first, second = load_sessions(reported)
    assert (first.start_iteration, first.iteration, first.state) == (0, 2, "finished")
    assert (second.start_iteration, second.iteration, second.state) == (2, 4, "finished")
    assert set(second.seconds) == {"evaluation", "checkpoint", "report"}
    assert set(second.stages) >= {"data sets", "weights", "loader"}
    page = Page(reported / "report.html")
    assert "Iteration 4 of 4" in page.sections[""]
    assert "in 2 sessions" in page.sections[""]
    assert "segm on shapes_val" in page.sections["errors"]


def test_a_run_without_reports_trains_the_same_and_writes_neither(
    reported: Path, tiny_config: Path, tmp_path: Path
) -> None:
    changes = {"OUTPUT_DIR": str(tmp_path), "SOLVER.TEST_PERIOD": 2, "SOLVER.SCHEDULE": "multistep"}
    train(replace(load_config(tiny_config), changes))
    weights, others = (
        load_file(each / "model_final.pth")["model"] for each in (tmp_path, reported)
    )
    assert all(torch.equal(weights[name], others[name]) for name in others)
    assert not (tmp_path / ENVIRONMENT).exists()
    assert not (tmp_path / "report.html").exists()


def test_a_scoring_reports_without_touching_the_configuration(
    reported: Path, tiny_config: Path, tmp_path: Path
) -> None:
    cfg = replace(load_config(tiny_config), {"OUTPUT_DIR": str(tmp_path), "REPORT": True})
    evaluate(cfg, reported / "model_final.pth")
    (session,) = load_sessions(tmp_path)
    assert (session.kind, session.state) == ("eval", "finished")
    assert session.weights_sha256 is not None
    assert not (tmp_path / "config.yaml").exists()
    page = Page(tmp_path / "report.html")
    assert "A scoring of" in page.sections[""]
    assert session.weights_sha256 in page.sections["again"]
    assert "There are no losses" in page.sections["losses"]
    Page(write_report(tmp_path))  # the folder alone is enough


def test_a_run_that_fails_says_with_what(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: DetectionDataset, index: int) -> Any:
        raise ValueError("the disk <burns>")

    cfg = make_config(tiny_config, tmp_path / "run", {"MODEL.MASK_ON": True})
    monkeypatch.setattr(DetectionDataset, "__getitem__", fail)
    with pytest.raises(ValueError, match="the disk <burns>"):
        train(cfg)
    page = Page(tmp_path / "run" / "report.html")
    assert "failed" in page.sections[""]
    assert "the disk <burns>" in page.sections[""]
    assert load_sessions(tmp_path / "run")[0].state == "failed"


def test_a_start_that_fails_leaves_no_page(tiny_config: Path, tmp_path: Path) -> None:
    changes = {"MODEL.WEIGHT": str(tmp_path / "gone.pth")}
    with pytest.raises(FileNotFoundError):
        train(make_config(tiny_config, tmp_path / "run", changes))
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_stopped_run_says_that_it_can_go_on(
    tiny_config: Path, tmp_path: Path, interrupted_at: Callable[[str], Any]
) -> None:
    cfg = make_config(tiny_config, tmp_path / "run", {"MODEL.MASK_ON": True})
    with interrupted_at("iter: 2"):
        assert not train(cfg).finished
    page = Page(tmp_path / "run" / "report.html")
    assert "stopped" in page.sections[""]
    assert "It can be resumed" in page.sections[""]


def test_missed_expectations_are_on_the_page(tiny_config: Path, tmp_path: Path) -> None:
    expected = (("bbox", "AP", (0.99, 0.001)),)
    changes = {"MODEL.MASK_ON": True, "TEST.EXPECTED_RESULTS": expected, "SOLVER.MAX_ITER": 2}
    with pytest.raises(Exception, match="1 of 1 expected results were missed"):
        train(make_config(tiny_config, tmp_path / "run", changes))
    page = Page(tmp_path / "run" / "report.html")
    assert "finished" in page.sections[""]
    assert "1 of 1 expected results were missed" in page.sections[""]


def test_a_report_that_fails_is_a_warning_and_the_run_goes_on(
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError("no ink")

    monkeypatch.setattr(reporting, "render_run", fail)
    cfg = make_config(tiny_config, tmp_path / "run", {"MODEL.MASK_ON": True, "SOLVER.MAX_ITER": 2})
    assert train(cfg).finished
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "detengine.report WARNING: the report was not written: no ink" in log
    assert "RuntimeError: no ink" in log  # the traceback


def test_a_damaged_record_does_not_keep_a_run_from_going_on(
    reported: Path, tiny_config: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(reported, tmp_path / "run")
    (folder / ENVIRONMENT).write_text("{")
    cfg = replace(load_config(folder / "config.yaml"), {"OUTPUT_DIR": str(folder)})
    assert train(cfg, resume=True).finished
    assert "the record of the run was not written" in (folder / "log.txt").read_text()
    assert json.loads((folder / "results.json").read_text())

"""Runs that measure their losses on the test set, and the same runs without."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from detengine.checkpoint.files import load_file
from detengine.config.load import load_config, replace
from detengine.config.schema import Config
from detengine.run import RunResult, evaluate, train

MakeConfig = Callable[..., Config]

LOSSES = ["loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"]
MASK_RCNN = {"MODEL.BACKBONE.NORM": "BN", "MODEL.ROI_HEADS.SCORE_THRESH": 0.5}
RESTLESS = {"MODEL.BUILDER": "restless_detector:build", "MODEL.MASK_ON": False}


@pytest.fixture(scope="module")
def make_config(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeConfig:
    """(changes by dotted key) -> a run that scores itself after its second and fourth iteration."""

    def make(changes: dict[str, Any]) -> Config:
        own = {
            "OUTPUT_DIR": str(tmp_path_factory.mktemp("losses") / "run"),
            "SOLVER.TEST_PERIOD": 2,
            "SOLVER.LOG_PERIOD": 1,
            "SOLVER.EMA_DECAY": 0.5,
            "TEST.PICTURES": 0,
        }
        return replace(load_config(tiny_config), own | changes)

    return make


def loss_lines(result: RunResult) -> list[str]:
    return re.findall(
        r"iter: \d+  loss: .*?  time: ", (result.output_folder / "log.txt").read_text()
    )


def metrics_of(result: RunResult) -> list[dict[str, Any]]:
    lines = (result.output_folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_same_training(one: RunResult, other: RunResult) -> None:
    ends = [load_file(each.output_folder / "model_final.pth") for each in (one, other)]
    for weights in ("model", "ema"):
        pair = [end[weights].get("weights", end[weights]) for end in ends]
        assert pair[0].keys() == pair[1].keys()
        assert all(torch.equal(value, pair[1][name]) for name, value in pair[0].items())
    assert loss_lines(one) == loss_lines(other)
    assert len(loss_lines(one)) == 4


@pytest.fixture(scope="module")
def measured(make_config: MakeConfig) -> tuple[Config, RunResult]:
    """A Mask R-CNN with batch norm and averaged weights, whose losses were measured twice."""
    cfg = make_config(MASK_RCNN | {"TEST.LOSS": True})
    return cfg, train(cfg)


def test_the_training_of_a_mask_rcnn_is_the_same_to_the_last_bit(
    measured: tuple[Config, RunResult], make_config: MakeConfig
) -> None:
    without = train(make_config(MASK_RCNN))
    assert_same_training(measured[1], without)
    assert "loss" not in without.results["shapes_val"].metrics
    scores = {**measured[1].results["shapes_val"].metrics}
    del scores["loss"]
    assert scores == without.results["shapes_val"].metrics


def test_the_training_of_a_model_with_dropout_and_state_is_the_same_to_the_last_bit(
    make_config: MakeConfig,
) -> None:
    with_losses, without = (
        train(make_config(RESTLESS | {"TEST.LOSS": on})) for on in (True, False)
    )
    assert_same_training(with_losses, without)
    assert list(with_losses.results["shapes_val"].metrics["loss"]) == ["loss", "loss_box"]


def test_losses_are_metrics_under_their_own_names(measured: tuple[Config, RunResult]) -> None:
    result = measured[1]
    losses = result.results["shapes_val"].metrics["loss"]
    assert list(losses) == ["loss", *LOSSES]
    assert losses["loss"] == pytest.approx(sum(losses[name] for name in LOSSES))
    stored = json.loads((result.output_folder / "results.json").read_text())
    assert stored["shapes_val"]["loss"] == losses
    lines = [line for line in metrics_of(result) if "val/shapes_val/loss/loss" in line]
    assert [line["iteration"] for line in lines] == [2, 4]
    assert lines[1]["val/shapes_val/loss/loss_mask"] == losses["loss_mask"]
    assert lines[0]["val/shapes_val/loss/loss"] != losses["loss"]
    assert f"{losses['loss']:.4f}" in (result.output_folder / "log.txt").read_text()


def test_evaluating_the_averaged_weights_measures_the_same_losses_again(
    measured: tuple[Config, RunResult], tmp_path: Path
) -> None:
    cfg, result = measured
    changes = {"OUTPUT_DIR": str(tmp_path), "TEST.BBOX_AUG.ENABLED": True}
    losses = evaluate(replace(cfg, changes), result.output_folder / "model_final.pth")
    assert losses["shapes_val"].metrics["loss"] == result.results["shapes_val"].metrics["loss"]


def test_of_a_model_of_proposals_the_losses_are_what_is_measured(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    proposals = {"MODEL.MASK_ON": False, "MODEL.RPN_ONLY": True, "SOLVER.MAX_ITER": 2}
    cfg = make_config(proposals | {"TEST.LOSS": True})
    result = train(cfg)
    losses = result.results["shapes_val"].metrics["loss"]
    assert list(losses) == ["loss", "loss_objectness", "loss_rpn_box_reg"]
    again = evaluate(
        replace(cfg, {"OUTPUT_DIR": str(tmp_path)}), result.output_folder / "model_final.pth"
    )
    assert again["shapes_val"].metrics["loss"] == losses


def test_a_best_metric_that_proposals_do_not_have_is_refused_before_the_training(
    make_config: MakeConfig,
) -> None:
    proposals = {"MODEL.MASK_ON": False, "MODEL.RPN_ONLY": True, "TEST.LOSS": True}
    cfg = make_config(proposals | {"SOLVER.BEST_METRIC": "bbox/AP"})
    with pytest.raises(ValueError, match=r"BEST_METRIC expects 'AP' of 'bbox', but this model"):
        train(cfg)
    assert not (Path(cfg.OUTPUT_DIR) / "last_checkpoint").exists()


def test_a_loss_that_is_not_a_number_is_reported_and_ends_no_run(make_config: MakeConfig) -> None:
    builder = "restless_detector:not_a_number"
    result = train(make_config(RESTLESS | {"MODEL.BUILDER": builder, "TEST.LOSS": True}))
    assert result.finished
    losses = result.results["shapes_val"].metrics["loss"]
    assert all(map(math.isnan, losses.values()))
    stored = json.loads((result.output_folder / "results.json").read_text())
    assert stored["shapes_val"]["loss"] == {"loss": "nan", "loss_box": "nan"}
    assert metrics_of(result)[-1]["val/shapes_val/loss/loss"] == "nan"


@pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()),
    reason="this torch has no gloo to join two processes with",
)
def test_two_ranks_measure_the_very_losses_of_one_on_the_same_batches(
    measured: tuple[Config, RunResult],
    tiny_config: Path,
    run_ranks: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    """Batches of one image each, whichever rank has them."""
    cfg, result = measured
    weights = result.output_folder / "model_final.pth"
    changes = {"OUTPUT_DIR": str(tmp_path / "one"), "TEST.IMS_PER_BATCH": 1}
    expected = evaluate(replace(cfg, changes), weights)["shapes_val"].metrics
    settings = MASK_RCNN | changes | {"OUTPUT_DIR": tmp_path / "two", "TEST.LOSS": True}
    words = [str(word) for pair in settings.items() for word in pair]
    run_ranks(2, None, "eval", "-c", tiny_config, "--weights", weights, *words)
    stored = json.loads((tmp_path / "two/results.json").read_text())["shapes_val"]
    assert stored["loss"] == expected["loss"]

"""A run that ends early: how it is finished, and that a kill on the way changes nothing of it."""

import json
import shutil
from signal import SIGKILL
from typing import Any

import pytest
import torch.distributed as dist

from detengine.checkpoint.files import load_file

EARLY = {
    "MODEL.BUILDER": "tiny_detectors:with_dropout",
    "SOLVER.TEST_PERIOD": 4,
    "SOLVER.CHECKPOINT_PERIOD": 5,
    "SOLVER.BASE_LR": 0.03,
    "SOLVER.EMA_DECAY": 0.5,
    "SOLVER.BEST_METRIC": "loss/loss",
    "SOLVER.EARLY_STOPPING": 2,
    "TEST.LOSS": True,
}
LOSS = "val/shapes_val/loss/loss"
BEST, END = 24, 32
"""Measured: the losses after iterations 28 and 32 are higher."""


def losses_of(run: Any) -> dict[int, float]:
    return {line["iteration"]: line[LOSS] for line in run.metrics("val/")}


def test_it_ends_with_its_weights_and_the_results_of_its_last_evaluation(unbroken: Any) -> None:
    run = unbroken(EARLY, scored=True)  # with exit code 0
    losses = losses_of(run)
    assert list(losses) == list(range(4, END + 1, 4))
    assert min(losses, key=lambda iteration: losses[iteration]) == BEST
    assert run.metrics()[-1]["iteration"] == END
    assert load_file(run.folder / "model_final.pth")["iteration"] == END
    assert load_file(run.folder / "model_best.pth")["iteration"] == BEST
    assert run.last_checkpoint() == "model_final.pth"
    stored = json.loads((run.folder / "results.json").read_text())["shapes_val"]
    assert stored["loss"]["loss"] == losses[END]
    said = f"ends early, after iteration {END}: {LOSS} has not fallen over 2 evaluations in a row; "
    assert f"{said}the best, {losses[BEST]:.4f}, is that of iteration {BEST} " in run.log()


@pytest.mark.parametrize(
    ("at", "checkpoint_period"),
    [("iter: 27 ", 5), ("ends early", 5), ("ends early", 4)],
)
def test_killed_and_resumed_it_ends_at_the_very_same_iteration(
    at: str, checkpoint_period: int, new_run: Any, unbroken: Any, differences: Any
) -> None:
    """With a checkpoint at its end, too, where the evaluation is all that is left."""
    settings = EARLY | {"SOLVER.CHECKPOINT_PERIOD": checkpoint_period}
    run = new_run(settings)
    assert run.train(scored=True, signal_at=(at, SIGKILL)) == -SIGKILL, run.output()
    assert not (run.folder / "model_final.pth").exists()
    assert run.train(resume=True, scored=True) == 0, run.output()
    expected = unbroken(EARLY, scored=True)
    assert run.last_checkpoint() == "model_final.pth"
    assert run.metrics("val/") == expected.metrics("val/")
    assert differences(run, expected) == []


@pytest.mark.parametrize("scored", [True, False])
def test_resumed_it_says_that_it_has_ended_and_does_not_train_on(
    scored: bool, new_run: Any, unbroken: Any, differences: Any
) -> None:
    expected, run = unbroken(EARLY, scored=True), new_run(EARLY)
    shutil.copytree(expected.folder, run.folder)
    assert run.train(resume=True, scored=scored) == 0, run.output()
    said = f"has ended early, after {END} of 40 iterations, because loss/loss had not become better"
    assert said in run.log()
    assert "Raise SOLVER.EARLY_STOPPING, or set it to None, to go on with it" in run.log()
    assert differences(run, expected) == []
    assert run.metrics("val/") == expected.metrics("val/")


def test_without_the_limit_it_goes_on_as_a_run_that_never_had_it(
    new_run: Any, unbroken: Any, differences: Any
) -> None:
    run = new_run(EARLY)
    shutil.copytree(unbroken(EARLY, scored=True).folder, run.folder)
    settings = {"SOLVER.EARLY_STOPPING": None}
    assert run.train(resume=True, scored=True, settings=settings) == 0, run.output()
    expected = unbroken(EARLY | {"SOLVER.EARLY_STOPPING": None}, scored=True)
    assert load_file(run.folder / "model_final.pth")["iteration"] == 40
    assert run.metrics("val/") == expected.metrics("val/")
    assert differences(run, expected) == []


@pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()),
    reason="this torch has no gloo to join two processes with",
)
def test_two_ranks_end_at_the_same_iteration_also_over_a_kill(
    new_run: Any, unbroken: Any, differences: Any
) -> None:
    settings = EARLY | {"SOLVER.EARLY_STOPPING": 1}  # whichever torch's numbers they are
    expected = unbroken(settings, scored=True, ranks=2)
    end = load_file(expected.folder / "model_final.pth")["iteration"]
    assert end < 40
    assert "ends early, after iteration" in expected.log()
    run = new_run(settings)
    assert run.train_ranks(2, scored=True, signal_at=("ends early", SIGKILL)) == [-SIGKILL] * 2
    assert run.train_ranks(2, resume=True, scored=True) == [0, 0], run.output()
    assert run.metrics("val/") == expected.metrics("val/")
    assert differences(run, expected) == []

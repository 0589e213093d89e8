"""A run that is asked to stop saves, exits with 75, and ends as one that was not asked."""

from signal import SIGINT, SIGKILL, SIGTERM, SIGUSR1
from typing import Any

import pytest
import torch

from detengine.checkpoint.files import load_file
from detengine.evaluation.predictions_file import load_predictions

STOPPED = 75
SCORED = {"SOLVER.MAX_ITER": 30, "SOLVER.TEST_PERIOD": 10, "SOLVER.EMA_DECAY": 0.9}


def stopped_after(run: Any) -> int:
    """The iterations of the last checkpoint, which are those of the last log line, too."""
    iteration = load_file(run.folder / run.last_checkpoint())["iteration"]
    assert run.last_checkpoint() == f"model_{iteration:07d}.pth"
    assert run.metrics()[-1]["iteration"] == iteration
    return int(iteration)


@pytest.mark.parametrize(("workers", "to_group"), [(0, False), (2, True)])
def test_each_signal_stops_after_the_very_step_and_the_run_goes_on_from_there(
    workers: int, to_group: bool, new_run: Any, unbroken: Any, differences: Any
) -> None:
    """With workers the whole group is signalled, as schedulers and terminals do."""
    run = new_run({"DATALOADER.NUM_WORKERS": workers})
    for number, iteration in ((SIGTERM, 8), (SIGUSR1, 15), (SIGINT, 26)):
        at = (f"iter: {iteration} ", number)
        assert run.train(resume=True, signal_at=at, to_group=to_group) == STOPPED, run.output()
        assert stopped_after(run) == iteration + 1
    assert f"To go on: detengine train -c {run.folder / 'config.yaml'} --resume" in run.output()
    assert run.train(resume=True) == 0, run.output()
    assert differences(run, unbroken()) == []


def test_a_signal_before_the_first_step_stops_after_it(
    new_run: Any, unbroken: Any, differences: Any
) -> None:
    run = new_run()
    assert run.train(signal_at=("Start training", SIGTERM)) == STOPPED, run.output()
    assert stopped_after(run) == 1
    assert run.train(resume=True) == 0, run.output()
    assert differences(run, unbroken()) == []


def test_a_signal_in_the_last_step_ends_the_run(
    new_run: Any, unbroken: Any, differences: Any
) -> None:
    run = new_run()
    assert run.train(signal_at=("iter: 39 ", SIGTERM)) == 0, run.output()
    assert differences(run, unbroken()) == []


def test_a_time_limit_stops_each_of_its_processes_and_the_run_ends_the_same(
    new_run: Any, unbroken: Any, differences: Any
) -> None:
    run = new_run()
    for iteration in (1, 2, 3):  # the limit is over before the first step
        assert run.train(resume=True, settings={"SOLVER.TIME_LIMIT": 0.0001}) == STOPPED
        assert stopped_after(run) == iteration
    assert "the time limit of 0.0001 minutes is over: stopping after this step" in run.log()
    assert run.train(resume=True) == 0, run.output()
    assert differences(run, unbroken()) == []


# In the middle of scoring


@pytest.mark.parametrize(("number", "workers"), [(SIGTERM, 0), (SIGTERM, 2), (SIGKILL, 2)])
def test_broken_off_in_scoring_a_run_scores_that_iteration_once_and_ends_the_same(
    number: int, workers: int, new_run: Any, unbroken: Any, differences: Any
) -> None:
    run = new_run(SCORED | {"DATALOADER.NUM_WORKERS": workers})
    at = ("Start evaluation", number)
    code = run.train(scored=True, signal_at=at, to_group=number == SIGTERM)
    assert code == (-SIGKILL if number == SIGKILL else STOPPED), run.output()
    assert run.last_checkpoint() == "model_0000010.pth"
    assert run.metrics("val/") == []
    assert run.train(resume=True, scored=True) == 0, run.output()
    expected = unbroken(SCORED, scored=True)
    assert [line["iteration"] for line in run.metrics("val/")] == [10, 20, 30]
    assert run.metrics("val/") == expected.metrics("val/")
    assert differences(run, expected) == []


@pytest.mark.parametrize("best", [None, "bbox/AP"])
def test_killed_after_a_scoring_that_no_checkpoint_tells_of_a_run_notes_it_once(
    best: str | None, new_run: Any, unbroken: Any, differences: Any
) -> None:
    settings = SCORED | {"SOLVER.BEST_METRIC": best}
    run = new_run(settings)
    assert run.train(scored=True, signal_at=("iter: 12 ", SIGKILL)) == -SIGKILL
    assert run.train(resume=True, scored=True) == 0, run.output()
    expected = unbroken(settings, scored=True)
    assert run.metrics("val/") == expected.metrics("val/")
    assert differences(run, expected) == []


@pytest.mark.parametrize("number", [SIGTERM, SIGKILL])
def test_broken_off_in_the_final_scoring_a_run_is_scored_when_it_is_resumed(
    number: int, new_run: Any, unbroken: Any, differences: Any
) -> None:
    settings = {"SOLVER.MAX_ITER": 12}
    run = new_run(settings)
    code = run.train(scored=True, signal_at=("Start evaluation", number))
    assert code == (-SIGKILL if number == SIGKILL else STOPPED), run.output()
    assert run.last_checkpoint() == "model_final.pth"
    assert not (run.folder / "results.json").exists()
    assert run.train(resume=True, scored=True) == 0, run.output()
    expected = unbroken(settings, scored=True)
    assert run.metrics("val/") == expected.metrics("val/")
    results = [(each.folder / "results.json").read_bytes() for each in (run, expected)]
    assert results[0] == results[1]
    found, known = (
        dict(load_predictions(each.folder / "inference/shapes_val")) for each in (run, expected)
    )
    assert found.keys() == known.keys()
    for image_id, prediction in found.items():
        assert torch.equal(prediction.boxes_xyxy, known[image_id].boxes_xyxy)
        assert torch.equal(prediction.scores, known[image_id].scores)
    assert differences(run, expected) == []


@pytest.mark.parametrize("best", [None, "bbox/AP"])
def test_a_finished_run_resumed_is_not_noted_a_second_time(best: str | None, new_run: Any) -> None:
    settings = {"SOLVER.MAX_ITER": 6, "SOLVER.TEST_PERIOD": 3, "SOLVER.BEST_METRIC": best}
    run = new_run(settings)
    assert run.train(scored=True) == 0, run.output()
    metrics = run.metrics("val/")
    assert run.train(resume=True, scored=True) == 0, run.output()
    assert run.metrics("val/") == metrics
    assert "is finished: all 6 iterations are done" in run.log()

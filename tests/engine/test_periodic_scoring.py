"""When a model is scored on the way, where it goes, and which checkpoint is the best."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from detengine.checkpoint.checkpointer import Checkpointer
from detengine.checkpoint.files import load_file
from detengine.engine.periodic_scoring import (
    BestMetric,
    PeriodicScoring,
    evaluations_in_a_row,
    has_ended_early,
)
from detengine.engine.stopping import StopRequestedError

AP = "val/mine/bbox/AP"


class ListSink:
    def __init__(self) -> None:
        self.written: list[tuple[int, Mapping[str, float]]] = []

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self.written.append((iteration, metrics))

    def close(self) -> None: ...


def scoring_of(
    values: Mapping[int, float], folder: Path | str = "", best: BestMetric | str | None = None
) -> tuple[PeriodicScoring, dict[str, Any], ListSink]:
    """Scores the given AP after each iteration."""
    arguments: dict[str, Any] = {"iteration": 0}
    sink = ListSink()
    scoring = PeriodicScoring(
        lambda: {AP: values[arguments["iteration"]]},
        10,
        [sink],
        best,
        Checkpointer(nn.Linear(1, 1), save_dir=folder),
    )
    return scoring, arguments, sink


def test_it_is_due_every_period_and_after_the_last_iteration() -> None:
    scoring, _, _ = scoring_of({})
    assert [i for i in range(26) if scoring.is_due(i, 25)] == [10, 20, 25]


def test_without_an_evaluation_it_is_never_due() -> None:
    scoring = PeriodicScoring(None, 10, [], None, Checkpointer(nn.Linear(1, 1)))
    assert not any(scoring.is_due(i, 20) for i in range(21))


def test_scores_go_to_the_sinks_once() -> None:
    scoring, arguments, sink = scoring_of({10: 0.5})
    arguments["iteration"] = 10
    assert scoring.is_owed(arguments, 20)
    assert scoring.run(arguments, 100)
    assert sink.written == [(10, {AP: 0.5})]
    assert not scoring.is_owed(arguments, 20)
    assert scoring.seconds > 0


def test_scoring_that_was_given_up_is_owed() -> None:
    def give_up() -> dict[str, float]:
        raise StopRequestedError

    sink = ListSink()
    scoring = PeriodicScoring(give_up, 10, [sink], None, Checkpointer(nn.Linear(1, 1)))
    arguments = {"iteration": 10}
    assert not scoring.run(arguments, 100)
    assert sink.written == []
    assert scoring.is_owed(arguments, 20)


def test_the_best_is_kept_and_a_worse_or_undefined_one_is_not(tmp_path: Path) -> None:
    values = {10: 0.5, 20: 0.7, 30: 0.7, 40: 0.6, 50: float("nan")}
    scoring, arguments, _ = scoring_of(values, tmp_path, best=AP)
    for arguments["iteration"] in values:
        scoring.run(arguments, 100)
    kept = load_file(tmp_path / "model_best.pth")
    assert kept["best"] == {"metric": AP, "value": 0.7, "iteration": 20}
    assert kept["iteration"] == 20
    assert not (tmp_path / "last_checkpoint").exists()


def test_a_resumed_run_looks_for_the_best_again_but_notes_its_scores_once(tmp_path: Path) -> None:
    scoring, arguments, sink = scoring_of({10: 0.5}, tmp_path, best=AP)
    arguments |= {"iteration": 10, "scored": 10}
    assert scoring.is_owed(arguments, 20)
    assert scoring.run(arguments, 100)
    assert load_file(tmp_path / "model_best.pth")["best"]["value"] == 0.5
    assert sink.written == []


def test_a_run_that_goes_on_past_its_end_knows_the_best_of_its_end(tmp_path: Path) -> None:
    scoring, arguments, _ = scoring_of({10: 0.5, 15: 0.9, 20: 0.7}, tmp_path, best=AP)
    for arguments["iteration"] in (10, 15):
        scoring.run(arguments, 15)
    arguments |= load_file(tmp_path / "model_final.pth")
    assert arguments["iteration"] == 15
    arguments["iteration"] = 20
    scoring.run(arguments, 20)
    assert load_file(tmp_path / "model_best.pth")["best"]["value"] == 0.9


def test_a_best_by_another_metric_does_not_count(tmp_path: Path) -> None:
    scoring, arguments, _ = scoring_of({10: 0.5}, tmp_path, best=AP)
    arguments |= {"iteration": 10, "best": {"metric": "val/mine/segm/AP", "value": 0.9}}
    scoring.run(arguments, 100)
    assert arguments["best"]["value"] == 0.5


def test_an_unknown_best_metric_is_refused_with_those_there_are() -> None:
    scoring, arguments, _ = scoring_of({10: 0.5}, best="val/mine/bbox/mAP")
    arguments["iteration"] = 10
    with pytest.raises(ValueError, match=rf"'val/mine/bbox/mAP', .* scored by {AP} \(SOLVER"):
        scoring.run(arguments, 100)


def test_of_a_loss_the_lowest_is_the_best(tmp_path: Path) -> None:
    values = {10: float("inf"), 20: 0.7, 30: 0.5, 40: float("nan"), 50: 0.6}
    scoring, arguments, _ = scoring_of(values, tmp_path, BestMetric(AP, lower_is_better=True))
    for arguments["iteration"] in values:
        assert scoring.run(arguments, 100)
    assert load_file(tmp_path / "model_best.pth")["best"] == {
        "metric": AP,
        "value": 0.5,
        "iteration": 30,
    }


# Ending early


@pytest.mark.parametrize(
    ("best", "values", "ends_at"),
    [
        (BestMetric(AP, patience=2), [0.1, 0.3, 0.3, 0.2, 0.9], 40),
        (BestMetric(AP, patience=2), [0.1, 0.3, 0.2, 0.4, 0.4], None),
        (BestMetric(AP, patience=1), [0.1, float("nan")], 20),
        (BestMetric(AP, patience=2), [float("nan")] * 3, 20),
        (BestMetric(AP, lower_is_better=True, patience=2), [0.5, 0.4, 0.4, 0.6], 40),
        (BestMetric(AP), [0.5] * 6, None),
    ],
)
def test_the_run_ends_when_the_patience_is_over(
    best: BestMetric, values: list[float], ends_at: int | None
) -> None:
    at = {10 * number: value for number, value in enumerate(values, start=1)}
    scoring, arguments, _ = scoring_of(at, best=best)
    for arguments["iteration"] in at:
        if not scoring.run(arguments, 1000):
            break
    assert has_ended_early(arguments, best) == (ends_at is not None)
    assert arguments["iteration"] == (ends_at or max(at))
    assert scoring.stop_name(arguments) == ("model_final" if ends_at else f"model_{max(at):07d}")


def test_without_a_patience_nothing_is_counted() -> None:
    scoring, arguments, _ = scoring_of({10: 0.5, 20: 0.5}, best=AP)
    for arguments["iteration"] in (10, 20):
        scoring.run(arguments, 100)
    assert set(arguments) == {"iteration", "scored", "best"}


def test_the_last_evaluation_of_a_run_ends_nothing_early(caplog: pytest.LogCaptureFixture) -> None:
    scoring, arguments, _ = scoring_of({10: 0.5, 20: 0.5}, best=BestMetric(AP, patience=1))
    with caplog.at_level(logging.INFO, logger="detengine"):
        for arguments["iteration"] in (10, 20):
            assert scoring.run(arguments, 20)
    assert "ends early" not in caplog.text


def test_an_early_end_is_said_once_with_the_best(caplog: pytest.LogCaptureFixture) -> None:
    scoring, arguments, _ = scoring_of({10: 0.5, 20: 0.4}, best=BestMetric(AP, patience=1))
    with caplog.at_level(logging.INFO, logger="detengine"):
        for arguments["iteration"] in (10, 20, 20):
            scoring.run(arguments, 100)
    said = [line for line in caplog.messages if "ends early" in line]
    assert said == [
        f"the training ends early, after iteration 20: {AP} has not risen over 1 evaluation; "
        "the best, 0.5000, is that of iteration 10 (SOLVER.EARLY_STOPPING)"
    ]


def test_an_evaluation_that_is_done_again_counts_once() -> None:
    scoring, arguments, _ = scoring_of({10: 0.5, 20: 0.4}, best=BestMetric(AP, patience=3))
    for arguments["iteration"] in (10, 20, 20, 20, 20):
        assert scoring.run(arguments, 100)
    assert arguments["without_better"]["evaluations"] == 1


def test_a_run_whose_patience_was_over_when_it_was_killed_ends_when_it_is_resumed(
    tmp_path: Path,
) -> None:
    best = BestMetric(AP, patience=1)
    scoring, arguments, _ = scoring_of({10: 0.5, 20: 0.4}, tmp_path, best=best)
    arguments |= {"iteration": 10}
    scoring.run(arguments, 100)
    arguments |= {"iteration": 20}  # what was saved before its scoring
    assert not scoring.catch_up(arguments, 100)
    assert load_file(tmp_path / "model_final.pth")["without_better"]["evaluations"] == 1


@pytest.mark.parametrize(
    ("best", "goes_on"),
    [
        (BestMetric(AP, patience=2), False),
        (BestMetric(AP, patience=3), True),
        (BestMetric(AP), True),
    ],
)
def test_a_run_that_has_ended_early_goes_on_with_more_patience_only(
    best: BestMetric, goes_on: bool, tmp_path: Path
) -> None:
    scoring, arguments, sink = scoring_of({20: 0.4}, tmp_path, best=best)
    arguments |= {
        "iteration": 20,
        "scored": 20,
        "best": {"metric": AP, "value": 0.5, "iteration": 10},
        "without_better": {"metric": AP, "evaluations": 2, "iteration": 20},
    }
    assert scoring.catch_up(arguments, 100) == goes_on
    assert sink.written == []
    assert not list(tmp_path.glob("*.pth"))
    assert ("without_better" in arguments) == (best.patience is not None)


@pytest.mark.parametrize(("count", "words"), [(1, "1 evaluation"), (3, "3 evaluations in a row")])
def test_the_evaluations_since_the_best_are_told_in_words(count: int, words: str) -> None:
    assert evaluations_in_a_row({"without_better": {"evaluations": count}}) == words

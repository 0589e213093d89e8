"""When a model is scored on the way, where it goes, and which checkpoint is the best."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from detengine.checkpoint.checkpointer import Checkpointer
from detengine.checkpoint.files import load_file
from detengine.engine.periodic_scoring import PeriodicScoring
from detengine.engine.stopping import StopRequestedError

AP = "val/mine/bbox/AP"


class ListSink:
    def __init__(self) -> None:
        self.written: list[tuple[int, Mapping[str, float]]] = []

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self.written.append((iteration, metrics))

    def close(self) -> None: ...


def scoring_of(
    values: Mapping[int, float], folder: Path | str = "", best: str | None = None
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
    assert scoring.run(arguments)
    assert sink.written == [(10, {AP: 0.5})]
    assert not scoring.is_owed(arguments, 20)
    assert scoring.seconds > 0


def test_scoring_that_was_given_up_is_owed() -> None:
    def give_up() -> dict[str, float]:
        raise StopRequestedError

    sink = ListSink()
    scoring = PeriodicScoring(give_up, 10, [sink], None, Checkpointer(nn.Linear(1, 1)))
    arguments = {"iteration": 10}
    assert not scoring.run(arguments)
    assert sink.written == []
    assert scoring.is_owed(arguments, 20)


def test_the_best_is_kept_and_a_worse_or_undefined_one_is_not(tmp_path: Path) -> None:
    values = {10: 0.5, 20: 0.7, 30: 0.7, 40: 0.6, 50: float("nan")}
    scoring, arguments, _ = scoring_of(values, tmp_path, best=AP)
    for arguments["iteration"] in values:
        scoring.run(arguments)
    kept = load_file(tmp_path / "model_best.pth")
    assert kept["best"] == {"metric": AP, "value": 0.7, "iteration": 20}
    assert kept["iteration"] == 20
    assert not (tmp_path / "last_checkpoint").exists()


def test_a_resumed_run_looks_for_the_best_again_but_notes_its_scores_once(tmp_path: Path) -> None:
    scoring, arguments, sink = scoring_of({10: 0.5}, tmp_path, best=AP)
    arguments |= {"iteration": 10, "scored": 10}
    assert scoring.is_owed(arguments, 20)
    assert scoring.run(arguments)
    assert load_file(tmp_path / "model_best.pth")["best"]["value"] == 0.5
    assert sink.written == []


def test_a_best_by_another_metric_does_not_count(tmp_path: Path) -> None:
    scoring, arguments, _ = scoring_of({10: 0.5}, tmp_path, best=AP)
    arguments |= {"iteration": 10, "best": {"metric": "val/mine/segm/AP", "value": 0.9}}
    scoring.run(arguments)
    assert arguments["best"]["value"] == 0.5


def test_an_unknown_best_metric_is_refused_with_those_there_are() -> None:
    scoring, arguments, _ = scoring_of({10: 0.5}, best="val/mine/bbox/mAP")
    arguments["iteration"] = 10
    with pytest.raises(ValueError, match=rf"'val/mine/bbox/mAP', .* scored by {AP} \(SOLVER"):
        scoring.run(arguments)

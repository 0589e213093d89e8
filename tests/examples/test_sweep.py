"""What a sweep does with trials that it was broken off at; tests/docs runs a whole one."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

_PROGRAM = Path(__file__).parents[2] / "examples" / "sweep.py"
_SPEC = importlib.util.spec_from_file_location("sweep", _PROGRAM)
assert _SPEC is not None
assert _SPEC.loader is not None
sweep = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(sweep)


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    return optuna.create_study(storage=f"sqlite:///{tmp_path / 'study.db'}")


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name.lower() for trial in study.get_trials()]


def test_a_killed_sweeps_trial_is_the_next_one_with_its_numbers_and_its_folder(study) -> None:
    study.tell(study.ask(), 0.5)
    killed = study.ask()
    numbers = sweep.suggest(killed)
    sweep.take_up_unfinished(study)
    assert states(study) == ["complete", "fail", "waiting"]
    again = study.ask()
    assert sweep.suggest(again) == numbers
    assert sweep.folder_of(again) == sweep.folder_of(killed) == "trial_0001"


def test_a_trial_that_was_broken_off_twice_is_taken_up_once(study) -> None:
    first = study.ask()
    sweep.suggest(first)
    first.set_user_attr("broken off", True)
    study.tell(first, state=TrialState.FAIL)
    sweep.take_up_unfinished(study)
    sweep.suggest(study.ask())  # and killed
    sweep.take_up_unfinished(study)
    assert states(study) == ["fail", "fail", "waiting"]
    sweep.take_up_unfinished(study)
    assert states(study) == ["fail", "fail", "waiting"]


def test_a_trial_that_failed_by_itself_is_not_repeated(study) -> None:
    study.tell(study.ask(), state=TrialState.FAIL)
    sweep.take_up_unfinished(study)
    assert states(study) == ["fail"]


def test_scores_are_read_while_a_run_writes_them_and_each_once(tmp_path: Path) -> None:
    lines = [{"iteration": 2, "val/a/bbox/AP": 0.25}, {"iteration": 3, "train/loss": 1.0}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"iteration": 4, "val/a/bb'
    (tmp_path / "metrics.jsonl").write_text(text)
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    found = list(sweep.scores_as_they_come(process, tmp_path, "val/a/bbox/AP"))
    assert found == [(2, 0.25)]

"""A hyperparameter sweep with Optuna: each trial is a run of detengine, in a folder of its own.

usage: python sweep.py BASE.yaml --metric val/my_val/bbox/AP50 --trials 20 --folder sweep

Change `suggest` to what you want to search. A sweep that was stopped or killed goes on when the
same command is given again, and so does the run that it was at. docs/sweep.md says more.
"""

import argparse
import ctypes
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

STOPPED = 75
"""The exit code of a run that saved and stopped because it was asked to."""


def suggest(trial: Trial) -> dict[str, object]:
    """The keys of one trial's configuration. This is the part to change."""
    return {
        "SOLVER.BASE_LR": trial.suggest_float("SOLVER.BASE_LR", 3e-4, 1e-2, log=True),
        "SOLVER.WEIGHT_DECAY": trial.suggest_float("SOLVER.WEIGHT_DECAY", 1e-4, 1e-1, log=True),
        "INPUT.CONTRAST": trial.suggest_categorical("INPUT.CONTRAST", [0.0, 0.3]),
    }


class RunFailedError(RuntimeError):
    """A trial's training ended with an error; the sweep goes on without it."""


def main() -> None:
    arguments = parse()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    study = optuna.create_study(
        study_name=arguments.metric,
        storage=f"sqlite:///{arguments.folder / 'study.db'}",
        direction="minimize" if "/loss/" in arguments.metric else "maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
        load_if_exists=True,
    )
    # Not the same seed each time, or a sweep that goes on would draw the same numbers again.
    study.sampler = optuna.samplers.TPESampler(seed=len(study.get_trials()))
    take_up_unfinished(study)
    waiting = {folder_of(each) for each in study.get_trials(states=[TrialState.WAITING])}
    tried = {folder_of(each) for each in study.get_trials()} - waiting
    study.optimize(
        lambda trial: run_trial(trial, arguments),
        n_trials=max(0, arguments.trials - len(tried)),
        catch=(RunFailedError,),
    )
    print_trials(study, arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="the YAML file that all trials begin from")
    parser.add_argument("--metric", required=True, help="by its name in metrics.jsonl")
    parser.add_argument("--trials", type=int, default=20, help="of the whole sweep")
    parser.add_argument("--folder", type=Path, default=Path("sweep"), help="what it is kept in")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="for all trials")
    return parser.parse_intermixed_args()


def take_up_unfinished(study: optuna.Study) -> None:
    """A trial that a sweep was broken off at is the next one, with its numbers and its folder."""
    later: set[str] = set()
    for trial in reversed(study.get_trials()):
        is_left = trial.state is TrialState.RUNNING or trial.user_attrs.get("broken off")
        if is_left and folder_of(trial) not in later:
            study.enqueue_trial(trial.params, user_attrs={"folder": folder_of(trial)})
        if trial.state is TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
        later.add(folder_of(trial))


def run_trial(trial: Trial, arguments: argparse.Namespace) -> float:
    """Train, report each score on the way, and give the last one."""
    run = arguments.folder / folder_of(trial)
    run.mkdir(parents=True, exist_ok=True)
    keys = [str(each) for pair in suggest(trial).items() for each in pair]
    command = [
        *(sys.executable, "-m", "detengine", "train", "-c", str(arguments.config), "--resume"),
        *("--output-dir", str(run), *arguments.overrides, *keys),
    ]
    value = None
    with (run / "console.txt").open("a") as console:
        process = subprocess.Popen(
            command, stdout=console, stderr=console, preexec_fn=stop_with_parent
        )
        try:
            for iteration, value in scores_as_they_come(process, run, arguments.metric):
                trial.report(value, iteration)
                if trial.should_prune() and stop(process) == STOPPED:
                    raise optuna.TrialPruned
        except KeyboardInterrupt:
            trial.set_user_attr("broken off", True)
            raise
        finally:
            stop(process)
    if process.returncode != 0 or value is None:
        raise RunFailedError(f"exit code {process.returncode}: see {run / 'console.txt'}")
    return value


def scores_as_they_come(
    process: subprocess.Popen[bytes], run: Path, metric: str
) -> Iterator[tuple[int, float]]:
    """(iteration, value) of each scoring of a run, until its process has ended."""
    path, seen, is_over = run / "metrics.jsonl", 0, False
    while not is_over:
        time.sleep(0.5)
        is_over = process.poll() is not None
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
        scores = [(line["iteration"], float(line[metric])) for line in lines if metric in line]
        yield from scores[seen:]
        seen = max(seen, len(scores))


def stop(process: subprocess.Popen[bytes]) -> int:
    """Ask a run to save and stop, if it has not ended; its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    return process.wait()


def stop_with_parent() -> None:
    """In the run's process: on Linux, have it asked to stop when this program dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def folder_of(trial: Trial | FrozenTrial) -> str:
    return str(trial.user_attrs.get("folder", f"trial_{trial.number:04d}"))


def print_trials(study: optuna.Study, arguments: argparse.Namespace) -> None:
    for trial in study.get_trials():
        value = "-" if trial.value is None else f"{trial.value:.4f}"
        numbers = "  ".join(f"{key} {each:.3g}" for key, each in trial.params.items())
        print(f"{folder_of(trial)}  {trial.state.name.lower():8}  {value:>6}  {numbers}")
    if not study.get_trials(states=[TrialState.COMPLETE]):
        print("No trial came to its end.")
        return
    pairs = " ".join(f"{key} {value}" for key, value in study.best_params.items())
    print(f"Best {arguments.metric}: {folder_of(study.best_trial)}. The same again:")
    print(f"  detengine train -c {arguments.config} --output-dir runs/best {pairs}")


if __name__ == "__main__":
    main()

"""A run killed by `kill -9` and resumed ends as one that never was."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

import detengine
from kills import PHASES, in_words, kill_again_and_again, scores_differ

pytestmark = pytest.mark.timeout(1800)

SGD = {
    "SOLVER.OPTIMIZER": "sgd",
    "SOLVER.SCHEDULE": "multistep",
    "SOLVER.STEPS": (10, 30),
    "SOLVER.WARMUP_ITERS": 20,
    "SOLVER.BASE_LR": 0.01,
}
DROPOUT = {"MODEL.BUILDER": "tiny_detectors:with_dropout"}
SETTINGS = {
    "adamw, one cycle": {},
    "sgd, multistep": SGD,
    "cosine, clipped": {"SOLVER.SCHEDULE": "cosine", "SOLVER.CLIP_NORM": 0.5},
    "accumulated": {"SOLVER.ACCUMULATE": 2},
    "averaged": {"SOLVER.EMA_DECAY": 0.9, "SOLVER.EMA_WARMUP_ITERS": 30},
    "bfloat16": {"DTYPE": "bfloat16"},
    "float16": {"DTYPE": "float16", "SOLVER.ON_NONFINITE": "skip"},
    "masks": {"MODEL.MASK_ON": True, "SOLVER.MAX_ITER": 24},
    "dropout": DROPOUT,
    "logged seldom": {"SOLVER.LOG_PERIOD": 10, "SOLVER.CHECKPOINT_PERIOD": 7},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_killed_at_17_a_run_ends_with_the_same_bits_and_losses(
    settings: dict[str, Any], new_run: Any, unbroken: Any, differences: Any
) -> None:
    settings = {"SOLVER.MAX_ITER": 24} | settings
    run = new_run(settings)
    at = r"iter: 17 " if "SOLVER.LOG_PERIOD" not in settings else r"saved .*model_0000014"
    assert run.train(signal_at=(at, SIGKILL)) == -SIGKILL
    assert run.train(resume=True) == 0, run.output()
    assert differences(run, unbroken(settings)) == []


@pytest.mark.faults
@pytest.mark.endurance
@pytest.mark.parametrize("workers", [2, 4])
def test_workers_change_nothing_before_or_after_the_kill(
    workers: int, new_run: Any, unbroken: Any, differences: Any
) -> None:
    run = new_run({"DATALOADER.NUM_WORKERS": workers})
    assert run.train(signal_at=("iter: 17 ", SIGKILL)) == -SIGKILL
    assert run.train(resume=True) == 0, run.output()
    assert differences(run, unbroken()) == []


@pytest.mark.faults
@pytest.mark.endurance
def test_killed_again_and_again_at_its_turning_points_a_run_ends_the_same(
    new_run: Any, unbroken: Any, differences: Any
) -> None:
    settings = {"SOLVER.MAX_ITER": 10}
    run = new_run(settings)
    for moment in (
        "Start training",
        "iter: 4 ",
        "saved .*model_0000005",
        "resuming from",
        "iter: 10 ",
        "saved .*model_final",
        "Total training time",
    ):
        assert run.train(resume=True, signal_at=(moment, SIGKILL)) == -SIGKILL, run.output()
    assert run.train(resume=True) == 0, run.output()
    assert differences(run, unbroken(settings)) == []


AVERAGED = {"SOLVER.EMA_DECAY": 0.9, "SOLVER.EMA_WARMUP_ITERS": 30}
SCORED = {"SOLVER.MAX_ITER": 24, "SOLVER.TEST_PERIOD": 6, "SOLVER.BEST_METRIC": "bbox/AP"}
EARLY = {
    "SOLVER.TEST_PERIOD": 3,
    "SOLVER.BEST_METRIC": "loss/loss",
    "SOLVER.EARLY_STOPPING": 4,
    "TEST.LOSS": True,
}
STORIES: list[tuple[dict[str, Any], bool]] = [
    (SCORED | AVERAGED, True),
    (DROPOUT | {"SOLVER.CHECKPOINT_PERIOD": 1}, False),
    ({"SOLVER.CHECKPOINT_PERIOD": 3, "SOLVER.KEEP_CHECKPOINTS": 2}, False),
    (DROPOUT | SCORED | {"DATALOADER.NUM_WORKERS": 2, "SINKS": ("tensorboard",)}, True),
    (DROPOUT | EARLY | {"SOLVER.CHECKPOINT_PERIOD": 2}, True),
    (DROPOUT | SCORED | AVERAGED | {"REPORT": True, "SOLVER.CHECKPOINT_PERIOD": 4}, True),
]
"""Settings, and whether they are scored on the way and at the end."""


@pytest.mark.faults
def test_killed_at_random_moments_runs_end_the_same(
    new_run: Any,
    unbroken: Any,
    differences: Any,
    times: Callable[[int, int], int],
    record_fault: Callable[..., None],
) -> None:
    """While they start, train, save, score and report, over and over in the same run."""
    stories, kills = STORIES[: times(1, len(STORIES))], times(2, 15)
    phases: Counter[str] = Counter()
    for number, (settings, scored) in enumerate(stories):
        moments = random.Random(number)
        aims = [each for each in PHASES if scored or each not in ("scoring", "reporting")]
        moments.shuffle(aims)
        expected, run = unbroken(settings, scored=scored), new_run(settings)
        phases += kill_again_and_again(
            run, list(islice(cycle(aims), kills)), moments,
            seconds=expected.seconds, ranks=1, scored=scored,
        )  # fmt: skip
        assert differences(run, expected) == []
        assert not scored or scores_differ(run, expected) == []
    record_fault(
        "Crashes",
        "a training is killed",
        made="`kill -9` of the process at random moments and when a file is half written, again "
        "and again in the same run; averaged weights, best checkpoint, early stopping, loader "
        "processes, sinks and the report among them",
        promised="resumed, it ends as if it had never been killed",
        tried=in_words(phases),
        happened=f"all {len(stories)} runs: the same weights, states, losses, scores and "
        "predictions, bit for bit",
    )


@pytest.mark.faults
@pytest.mark.endurance
def test_a_real_command_killed_leaves_no_process_and_ends_the_same_when_resumed(
    new_run: Any,
    unbroken: Any,
    differences: Any,
    times: Callable[[int, int], int],
    record_fault: Callable[..., None],
) -> None:
    """`python -m detengine` in a process of its own, with loader processes of its own."""
    run = new_run({"DATALOADER.NUM_WORKERS": 2})
    moments, kills, orphans = random.Random(1), times(1, 8), 0
    for kill in range(kills):
        at = f"iter: {17 + kill} " if not kill % 2 else r"resuming from[\s\S]*Start training"
        orphans += _killed_command(run, at, moments.uniform(0, 0.3) if kill else 0)
    assert orphans >= kills // 2  # some have no loader yet
    assert run.train(resume=True) == 0, run.output()
    assert differences(run, unbroken()) == []
    record_fault(
        "Crashes",
        "a command with loader processes is killed",
        made="`kill -9` of `python -m detengine train` alone, not of its loader's processes",
        promised="no process is left, and the resumed run ends as if it had never been killed",
        tried=f"{kills} kills",
        happened=f"all {orphans} loader processes ended by themselves; the same bits",
    )


def _killed_command(run: Any, at: str, delay: float) -> int:
    """Start the command, kill it so long after a line; gives how many processes it had."""
    arguments = run.arguments(resume=True, scored=False, settings={})
    environment = os.environ | {
        "PYTHONPATH": str(Path(detengine.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    with run.output_path.open("w") as output:
        command = subprocess.Popen(
            [sys.executable, "-m", "detengine", *arguments],
            stdout=output, stderr=output, env=environment,
        )  # fmt: skip
        run.wait_for(at)
        time.sleep(delay)
        children = _children_of(command.pid)
        command.kill()
        assert command.wait() == -SIGKILL
    deadline = time.monotonic() + 20
    while any(map(_is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_is_alive, children))
    return len(children)


def _children_of(process_id: int) -> list[int]:
    listed = Path(f"/proc/{process_id}/task/{process_id}/children").read_text()
    return [int(each) for each in listed.split()]


def _is_alive(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"

"""A run killed by `kill -9` and resumed ends as one that never was."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

import detengine

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
    run = new_run(settings)
    at = r"iter: 17 " if "SOLVER.LOG_PERIOD" not in settings else r"saved .*model_0000014"
    assert run.train(signal_at=(at, SIGKILL)) == -SIGKILL
    assert run.train(resume=True) == 0, run.output()
    assert differences(run, unbroken(settings)) == []


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_change_nothing_before_or_after_the_kill(
    workers: int, new_run: Any, unbroken: Any, differences: Any
) -> None:
    run = new_run({"DATALOADER.NUM_WORKERS": workers})
    assert run.train(signal_at=("iter: 17 ", SIGKILL)) == -SIGKILL
    assert run.train(resume=True) == 0, run.output()
    assert differences(run, unbroken()) == []


def test_killed_again_and_again_at_its_turning_points_a_run_ends_the_same(
    new_run: Any, unbroken: Any, differences: Any
) -> None:
    run = new_run()
    for moment in (
        "Start training",
        "iter: 4 ",
        "saved .*model_0000005",
        "resuming from",
        "iter: 40 ",
        "saved .*model_final",
        "Total training time",
    ):
        assert run.train(resume=True, signal_at=(moment, SIGKILL)) == -SIGKILL, run.output()
    assert run.train(resume=True) == 0, run.output()
    assert differences(run, unbroken()) == []


@pytest.mark.parametrize("story", range(6))
def test_killed_at_thirty_random_moments_runs_end_the_same(
    story: int, new_run: Any, unbroken: Any, differences: Any
) -> None:
    """Five kills in each of six runs: while they start, train, and save after every iteration."""
    settings = DROPOUT if story % 2 else {}
    expected = unbroken(settings)
    moments = random.Random(story)
    run = new_run(settings | {"SOLVER.CHECKPOINT_PERIOD": 1 + story // 2 * 2})
    for _ in range(5):
        process = run.start(resume=True)
        time.sleep(moments.uniform(0.03, 0.4) * expected.seconds)
        process.signal(SIGKILL)
        assert process.wait() in (-SIGKILL, 0), run.output()
    assert run.train(resume=True) == 0, run.output()
    assert differences(run, expected) == []


def test_a_real_command_killed_and_resumed_ends_the_same(
    new_run: Any, unbroken: Any, differences: Any
) -> None:
    """`python -m detengine` in a process of its own, with loader processes of its own."""
    run = new_run({"DATALOADER.NUM_WORKERS": 2})
    arguments = run.arguments(resume=False, scored=False, settings={})
    environment = os.environ | {
        "PYTHONPATH": str(Path(detengine.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    with run.output_path.open("w") as output:
        command = subprocess.Popen(
            [sys.executable, "-m", "detengine", *arguments],
            stdout=output, stderr=output, env=environment,
        )  # fmt: skip
        run.wait_for("iter: 17 ")
        command.kill()
        assert command.wait() == -SIGKILL
    assert run.train(resume=True) == 0, run.output()
    assert differences(run, unbroken()) == []

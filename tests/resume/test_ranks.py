"""Two ranks, killed, stopped and resumed: as one of them alone, and all alike."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from random import Random
from signal import SIGKILL, SIGTERM, SIGUSR1
from typing import Any

import pytest
import torch.distributed as dist

import detengine
from detengine.checkpoint.files import load_file
from kills import PARTING_SECONDS, PHASES, in_words, kill_again_and_again, scores_differ

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()),
    reason="this torch has no gloo to join two processes with",
)

STOPPED = 75
BEST = {"SOLVER.BEST_METRIC": "bbox/AP"}
AVERAGED = {"SOLVER.EMA_DECAY": 0.9, "SOLVER.EMA_WARMUP_ITERS": 30}
SCORED = {
    "SOLVER.MAX_ITER": 20,
    "SOLVER.TEST_PERIOD": 10,
    "DATASETS.TEST": ("shapes_train",),  # seven images: four batches of rank 0, three of rank 1
    "TEST.IMS_PER_BATCH": 2,
}


@pytest.mark.faults
@pytest.mark.endurance
@pytest.mark.timeout(1800)
def test_two_ranks_killed_one_or_both_at_random_moments_end_the_same(
    new_run: Any,
    unbroken: Any,
    differences: Any,
    times: Callable[[int, int], int],
    record_fault: Callable[..., None],
) -> None:
    """The one that is left ends by itself, within kills.PARTING_SECONDS."""
    stories, kills = times(1, 4), times(2, 8)
    phases: Counter[str] = Counter()
    for number in range(stories):
        settings, scored = (AVERAGED, False) if number % 2 else (SCORED | AVERAGED | BEST, True)
        moments = Random(number)
        aims = [each for each in PHASES if scored or each not in ("scoring", "reporting")]
        moments.shuffle(aims)
        expected, run = unbroken(settings, scored=scored, ranks=2), new_run(settings)
        phases += kill_again_and_again(
            run, list(islice(cycle(aims), kills)), moments,
            seconds=expected.seconds, ranks=2, scored=scored,
        )  # fmt: skip
        assert differences(run, expected) == []
        assert not scored or scores_differ(run, expected) == []
    record_fault(
        "Crashes",
        "one of two ranks is killed, or both",
        made="`kill -9` of a rank, or of both, at random moments and when a file is half written, "
        "again and again in the same run",
        promised="the other ends by itself; resumed, the run ends as if nothing had been killed",
        tried=in_words(phases),
        happened=f"all {stories} runs: the same weights, states, losses, scores and predictions, "
        f"bit for bit; whoever was left ended within {PARTING_SECONDS:.0f} s",
    )


def test_one_rank_goes_on_from_two_with_the_same_samples_in_the_same_order(
    new_run: Any, tmp_path: Path
) -> None:
    settings = {"MODEL.BUILDER": "tiny_detectors:without_randomness"}
    files = [tmp_path / name for name in ("unbroken", "rank0", "rank1", "resumed")]
    expected, run = new_run(settings), new_run(settings)
    assert expected.train(read_images=files[0]) == 0, expected.output()
    codes = run.train_ranks(2, signal_at=("iter: 17 ", SIGKILL), read_images=files[1:3])
    assert codes == [-SIGKILL] * 2, run.output()
    done = load_file(run.folder / run.last_checkpoint())["iteration"]
    assert run.train(resume=True, read_images=files[3]) == 0, run.output()

    opened, *of_ranks, resumed = [path.read_text().split() for path in files]
    before = [name for pair in zip(*of_ranks, strict=False) for name in pair][: done * 2]
    assert len(opened) == 40 * 2
    assert before + resumed == opened
    losses = [line["train/loss"] for line in run.metrics()]
    assert losses == pytest.approx([line["train/loss"] for line in expected.metrics()], rel=1e-4)


@pytest.mark.parametrize(("signalled", "log_period"), [([0], 10), ([1], 10), ([0, 1], 1)])
def test_a_signal_to_some_ranks_stops_all_after_the_same_step(
    signalled: Sequence[int], log_period: int, new_run: Any, unbroken: Any, differences: Any
) -> None:
    settings = AVERAGED | {"SOLVER.LOG_PERIOD": log_period, "SOLVER.CHECKPOINT_PERIOD": 100}
    run = new_run(settings)
    codes = run.train_ranks(2, signal_at=("iter: 10 ", SIGTERM), signalled=signalled)
    assert codes == [STOPPED, STOPPED], run.output()
    [name] = run.checkpoints()
    assert run.log().count(": saved ") == 1
    iteration = load_file(run.folder / name)["iteration"]
    assert name == run.last_checkpoint() == f"model_{iteration:07d}.pth"
    assert 11 <= iteration <= 10 + log_period
    assert run.train_ranks(2, resume=True) == [0, 0], run.output()
    assert differences(run, unbroken(settings, ranks=2)) == []


@pytest.mark.parametrize("signalled", [[0], [1]])
def test_a_signal_to_one_rank_gives_scoring_up_on_all(
    signalled: Sequence[int], new_run: Any, unbroken: Any, differences: Any
) -> None:
    run = new_run(SCORED)
    at = ("Start evaluation", SIGUSR1)
    codes = run.train_ranks(2, scored=True, signal_at=at, signalled=signalled)
    assert codes == [STOPPED, STOPPED], run.output()
    assert run.last_checkpoint() == "model_0000010.pth"
    assert run.metrics("val/") == []
    assert run.train_ranks(2, scored=True, resume=True) == [0, 0], run.output()
    expected = unbroken(SCORED, scored=True, ranks=2)
    assert [line["iteration"] for line in run.metrics("val/")] == [10, 20]
    assert run.metrics("val/") == expected.metrics("val/")
    assert differences(run, expected) == []


def test_under_torchrun_a_schedulers_signal_saves_and_each_rank_says_75(
    new_run: Any, unbroken: Any, differences: Any
) -> None:
    """SIGTERM to torchrun, which hands it on to its ranks and waits for them."""
    run = new_run(AVERAGED)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = run.arguments(resume=False, scored=False, settings={})
    environment = os.environ | {
        "PYTHONPATH": str(Path(detengine.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    with run.output_path.open("w") as output:
        torchrun = subprocess.Popen(
            [sys.executable, *launcher, "-m", "detengine", *arguments],
            stdout=output, stderr=output, env=environment,
        )  # fmt: skip
        run.wait_for("iter: 5 ")
        torchrun.terminate()
        assert torchrun.wait() != 0
    assert len(re.findall("Stopped, and saved in", run.output())) == 2
    assert 6 <= load_file(run.folder / run.last_checkpoint())["iteration"] < 40
    assert run.train_ranks(2, resume=True) == [0, 0], run.output()
    assert differences(run, unbroken(AVERAGED, ranks=2)) == []

"""A step that was not finite, repeated from its record through the command line."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from detengine.engine.nonfinite_record import NonFiniteRecord, RankShare, read_record
from detengine.engine.replay import describe_replay, first_nonfinite_outputs, repeat_step
from detengine.engine.trainer import windows
from engine.faulty_detector import FAULTS, FaultyDetector, FaultyLoader

RunRanks = Callable[..., list[str]]
CPU = torch.device("cpu")
EMPTY = 106
"""The image without objects, by whose number of them the model divides."""


class Stopped(NamedTuple):
    """A run that a step ended, and what its rank 0 printed."""

    folder: Path
    printed: str

    @property
    def record(self) -> Path:
        """The last one."""
        return max(self.folder.glob("nonfinite_*.json"))


def start(
    run_ranks: RunRanks, config: Path, folder: Path, count: int, *, code: int = 1, **settings: Any
) -> Stopped:
    own = {
        "MODEL.BUILDER": "engine.faulty_detector:per_object",
        "MODEL.MASK_ON": False,
        "SOLVER.OPTIMIZER": "sgd",
        "SOLVER.BASE_LR": 0.001,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 8,
        "SOLVER.LOG_PERIOD": 4,
        "OUTPUT_DIR": folder,
    } | settings
    words = [word for pair in own.items() for word in pair]
    arguments = ["train", "-c", config, "--skip-test", *words]
    printed = run_ranks(count, None, *arguments, codes=[code] * count, seconds=60)
    return Stopped(folder, printed[0])


@pytest.fixture(scope="module")
def stopped(
    run_ranks: RunRanks, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory
) -> Stopped:
    """On two ranks."""
    return start(run_ranks, tiny_config, tmp_path_factory.mktemp("replay") / "run", 2)


@pytest.fixture(scope="module")
def skipped(
    run_ranks: RunRanks, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory
) -> Stopped:
    """On one rank, to the end, with checkpoints of some iterations."""
    how = {"SOLVER.ON_NONFINITE": "skip", "SOLVER.CHECKPOINT_PERIOD": 1}
    folder = tmp_path_factory.mktemp("replay") / "run"
    return start(run_ranks, tiny_config, folder, 1, code=0, **how)


def replay(run_ranks: RunRanks, run: Stopped, *overrides: Any, code: int = 0) -> str:
    config = run.folder / "config.yaml"
    arguments = ["train", "-c", config, "--replay", run.record, *overrides]
    return run_ranks(1, None, *arguments, codes=[code], seconds=60)[0]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def losses_in(shown: str) -> list[tuple[str, str]]:
    return re.findall(r"then (\S+) +now (\S+)", shown)


def test_the_error_gives_the_command_that_repeats_the_step(
    run_ranks: RunRanks, stopped: Stopped
) -> None:
    printed = " ".join(stopped.printed.split())
    config, record = stopped.folder / "config.yaml", stopped.record
    assert f"detengine train -c {shlex.quote(str(config))} --replay {record}" in printed
    assert re.search(rf"image ids \[{EMPTY}\], lr .*: loss (nan|inf), loss_count ", printed)
    before = files_of(stopped.folder)
    shown = replay(run_ranks, stopped)
    assert files_of(stopped.folder) == before
    assert f"with the weights of {record.stem}.pth\n" in shown
    assert f"image {EMPTY} (train_6.jpg)" in shown
    assert shown.count("the first output that is not finite: mean (MeanOverObjects)") == 1
    assert "every output and every gradient is finite" in shown  # the other rank's
    assert re.search(r"gradients: norm (nan|inf); not finite in \d of \d parameters: \w", shown)
    assert len(losses_in(shown)) == 4
    assert all(then == now for then, now in losses_in(shown))


def test_without_its_weights_the_step_is_trained_on_to_from_the_beginning(
    run_ranks: RunRanks, stopped: Stopped, tmp_path: Path
) -> None:
    """On several ranks but for rounding, which is said."""
    folder = tmp_path / "run"
    folder.mkdir()
    for path in (stopped.folder / "config.yaml", stopped.record):
        (folder / path.name).write_bytes(path.read_bytes())
    before = files_of(folder)
    shown = replay(run_ranks, Stopped(folder, ""))
    assert files_of(folder) == before
    assert "the run's beginning, trained on to it (but for rounding: 2 ranks in one" in shown
    assert all(
        float(now) == pytest.approx(float(then), rel=1e-4, nan_ok=True)
        for then, now in losses_in(shown)
    )


def test_a_skipped_step_is_trained_on_to_from_the_checkpoint_before_it(
    run_ranks: RunRanks, skipped: Stopped
) -> None:
    iteration = read_record(skipped.record).iteration
    assert iteration > 3
    for later in range(iteration - 2, iteration):
        (skipped.folder / f"model_{later:07d}.pth").unlink()
    shown = replay(run_ranks, skipped)
    origin = f"the weights of model_{iteration - 3:07d}.pth, trained on to it\n"
    assert origin in shown
    assert all(then == now for then, now in losses_in(shown))
    assert "mean (MeanOverObjects)" in shown


def test_a_record_that_does_not_fit_is_refused(
    run_ranks: RunRanks, stopped: Stopped, tmp_path: Path
) -> None:
    cases = {
        ("SEED", 5): "of a run with SEED 0, but the configuration says 5. Give the configuration",
        ("SOLVER.IMS_PER_BATCH", 4): "with SOLVER.IMS_PER_BATCH 2, but the configuration says 4",
        ("DATALOADER.ASPECT_RATIO_GROUPING", False): "had the images",
        ("SOLVER.MAX_ITER", 1): "but SOLVER.MAX_ITER is 1. Give the configuration",
    }
    for overrides, message in cases.items():
        shown = replay(run_ranks, stopped, *overrides, code=1)
        assert message in " ".join(shown.split())


def test_replay_beside_resume_is_a_usage_error(run_ranks: RunRanks, stopped: Stopped) -> None:
    arguments = ["train", "-c", stopped.folder / "config.yaml", "--resume", "--replay", "x.json"]
    printed = run_ranks(1, None, *arguments, codes=[2], seconds=60)[0]
    assert "--resume means nothing beside it" in " ".join(printed.split())


def test_a_replay_is_one_process_s_work(run_ranks: RunRanks, stopped: Stopped) -> None:
    arguments = ["train", "-c", stopped.folder / "config.yaml", "--replay", stopped.record]
    printed = run_ranks(2, None, *arguments, codes=[1, 1], seconds=60)
    assert "start it without torchrun" in " ".join(" ".join(printed).split())


def record_of(ranks: int) -> NonFiniteRecord:
    shares = [RankShare([[10 + rank]], {"loss": 0.5, "loss_old": 0.5}) for rank in range(ranks)]
    return NonFiniteRecord(1, 0.1, 0, 1, "float32", shares)


@pytest.mark.parametrize("fault", FAULTS)
def test_repeating_a_step_shows_whose_loss_or_gradient_it_is(fault: str) -> None:
    model = FaultyDetector()
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    step = [
        next(windows(FaultyLoader(1, rank, {1: {"fault": fault}} if rank else {}), 1, CPU))[1]
        for rank in range(2)
    ]
    shown = repeat_step(model, step, CPU, dtype="float32", seed=0, iteration=1)
    assert not shown.is_finite
    assert shown.ranks[0].gradients_are_finite
    assert shown.ranks[0].culprit is None
    assert shown.ranks[1].gradients_are_finite == (fault != "gradient")
    culprit = None if fault == "gradient" else "the model itself (FaultyDetector)"
    assert shown.ranks[1].culprit == culprit
    assert shown.bad_parameters == (["linear.weight"] if fault == "gradient" else [])
    for parameter, weight in zip(model.parameters(), weights, strict=True):
        assert torch.equal(parameter, weight)


def test_a_step_that_is_finite_here_is_said_to_be() -> None:
    step = [next(windows(FaultyLoader(1, rank, {}), 1, CPU))[1] for rank in range(2)]
    shown = repeat_step(FaultyDetector(), step, CPU, dtype="float32", seed=0, iteration=1)
    text = describe_replay(record_of(2), shown, str)
    assert text.startswith("rank 0: 10\n  loss         then 0.5")
    assert re.search(r"loss_old +then 0.5 +now not there\n", text)
    assert re.search(r"loss_first +then not there +now 0\.\d+\n", text)
    assert re.search(r"gradients: norm \d\.\d+; all 6 are finite\n", text)
    assert text.endswith("Repeated here, the step is finite: every loss and every gradient.")


def test_the_first_output_is_the_innermost_one_and_the_hooks_are_gone_afterwards() -> None:
    inner = nn.Linear(1, 1)
    model = nn.Sequential(nn.Identity(), nn.Sequential(inner), nn.Identity())
    nn.init.constant_(inner.weight, torch.inf)
    with first_nonfinite_outputs(model) as found:
        model(torch.ones(1, 1))
    assert found[:2] == ["1.0 (Linear)", "1 (Sequential)"]
    assert not any(module._forward_hooks for module in model.modules())


def test_json_stays_readable(stopped: Stopped) -> None:
    lines = stopped.record.read_text().splitlines()
    assert json.loads(stopped.record.read_text())["world_size"] == 2
    assert len([line for line in lines if '"image_ids"' in line]) == 2
    assert len(lines) < 15

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.optim import Optimizer

from detengine.solver.lr_scheduler import (
    ClosedFormLR,
    OneCycleLR,
    WarmupCosineLR,
    WarmupMultiStepLR,
)

RECORDING = Path(__file__).parents[3] / "shared/golden/small/warmup_multistep_lr.json"

SCHEDULES: dict[str, Callable[[Optimizer], ClosedFormLR]] = {
    "multistep": lambda optimizer: WarmupMultiStepLR(optimizer, [12, 16], warmup_iters=5),
    "cosine": lambda optimizer: WarmupCosineLR(optimizer, 20, 0.1, warmup_iters=5),
    "onecycle": lambda optimizer: OneCycleLR(optimizer, 20, 0.25, 0.04, 0.1),
}


def two_groups(*rates: float) -> Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in rates]
    return torch.optim.SGD(groups)


def rates_used(schedule: ClosedFormLR, iterations: int) -> list[list[float]]:
    """The learning rates in force in each iteration."""
    rates = []
    for _ in range(iterations):
        rates.append([group["lr"] for group in schedule.optimizer.param_groups])
        schedule.optimizer.step()
        schedule.step()
    return rates


def test_multistep_gives_the_predecessors_rates_to_the_last_bit() -> None:
    if not RECORDING.exists():
        pytest.skip("the recordings of the predecessor are not here")
    for recorded in json.loads(RECORDING.read_text()):
        optimizer = two_groups(*recorded["base_lrs"])
        schedule = WarmupMultiStepLR(optimizer, **recorded["settings"])
        expected = recorded["lr_used_at_iteration"]
        assert rates_used(schedule, len(expected)) == expected


@pytest.mark.parametrize(
    ("method", "iteration", "expected"),
    [
        ("linear", 0, 0.02 / 3),
        ("linear", 25, 0.02 * 2 / 3),
        ("linear", 50, 0.02),
        ("linear", 119, 0.02),
        ("linear", 120, 0.002),
        ("linear", 160, 0.0002),
        ("constant", 49, 0.02 / 3),
        ("constant", 50, 0.02),
    ],
)
def test_multistep_at_its_corners(method: str, iteration: int, expected: float) -> None:
    schedule = WarmupMultiStepLR(
        two_groups(0.02), [120, 160], warmup_iters=50, warmup_method=method
    )
    assert rates_used(schedule, iteration + 1)[-1] == pytest.approx([expected], rel=1e-12)


def test_cosine_at_its_corners() -> None:
    schedule = WarmupCosineLR(two_groups(1.0), 100, 0.1, warmup_factor=0.5, warmup_iters=10)
    rates = [rate for (rate,) in rates_used(schedule, 102)]
    assert rates[0] == pytest.approx(0.5)
    assert rates[5] == pytest.approx(0.75 * (0.1 + 0.9 * 0.5 * (1 + math.cos(0.05 * math.pi))))
    assert rates[50] == pytest.approx(0.55)
    assert rates[100:] == pytest.approx([0.1, 0.1])


def test_one_cycle_at_its_corners() -> None:
    schedule = OneCycleLR(two_groups(1.0), 100, 0.2, start_factor=0.04, min_factor=0.01)
    rates = [rate for (rate,) in rates_used(schedule, 102)]
    assert rates[0] == pytest.approx(0.04)
    assert rates[10] == pytest.approx(0.52)
    assert rates[20] == 1.0
    assert rates[60] == pytest.approx(0.505)
    assert rates[100:] == pytest.approx([0.01, 0.01])


def test_one_cycle_may_only_fall_or_only_rise() -> None:
    falling = rates_used(OneCycleLR(two_groups(1.0), 10, 0.0), 11)
    rising = rates_used(OneCycleLR(two_groups(1.0), 10, 1.0, start_factor=0.0), 10)
    assert (falling[0], falling[10]) == ([1.0], [0.0])
    assert rising[0] == [0.0]
    assert rising == sorted(rising)


def test_a_run_of_no_iterations_has_a_schedule() -> None:
    assert WarmupCosineLR(two_groups(1.0), 0, 0.5, warmup_iters=0).get_last_lr() == [0.5]
    assert OneCycleLR(two_groups(1.0), 0, min_factor=0.5).get_last_lr() == [0.5]


@pytest.mark.parametrize("name", SCHEDULES)
def test_all_groups_keep_their_ratio(name: str) -> None:
    for weight_lr, bias_lr in rates_used(SCHEDULES[name](two_groups(0.02, 0.04)), 25):
        assert bias_lr == pytest.approx(2 * weight_lr)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("finished", [0, 1, 7, 20])
def test_a_resumed_schedule_goes_on_as_if_it_had_never_stopped(name: str, finished: int) -> None:
    unbroken = SCHEDULES[name](two_groups(0.02, 0.04))
    before = SCHEDULES[name](two_groups(0.02, 0.04))
    rates_used(before, finished)
    after = SCHEDULES[name](two_groups(0.02, 0.04))
    after.load_state_dict(before.state_dict())
    assert after.get_last_lr() == before.get_last_lr()
    assert rates_used(after, 25 - finished) == rates_used(unbroken, 25)[finished:]


def test_the_state_is_the_number_of_finished_iterations_alone() -> None:
    schedule = SCHEDULES["multistep"](two_groups(0.02))
    rates_used(schedule, 3)
    assert schedule.state_dict() == {"last_epoch": 3}


def test_a_resumed_schedule_follows_the_new_configuration() -> None:
    schedule = WarmupMultiStepLR(two_groups(1.0), [100], warmup_iters=0)
    schedule.load_state_dict({"last_epoch": 50, "milestones": [10], "base_lrs": [7.0]})
    assert schedule.get_last_lr() == [1.0]


def test_milestones_beyond_the_end_are_never_reached() -> None:
    schedule = WarmupMultiStepLR(two_groups(1.0), [10**6], warmup_iters=0)
    assert rates_used(schedule, 30) == [[1.0]] * 30


def test_milestones_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(ValueError, match=r"milestones are \(20, 10\), but must ascend.*STEPS"):
        WarmupMultiStepLR(two_groups(1.0), [20, 10])


@pytest.mark.parametrize("schedule", [WarmupMultiStepLR, WarmupCosineLR])
def test_an_unknown_warmup_is_refused(schedule: type) -> None:
    length = [10] if schedule is WarmupMultiStepLR else 10
    with pytest.raises(ValueError, match=r"'quadratic'.*'constant' and 'linear'.*WARMUP_METHOD"):
        schedule(two_groups(1.0), length, warmup_method="quadratic")


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_a_one_cycle_that_peaks_outside_the_run_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=rf"warmup_fraction is {fraction}.*ONE_CYCLE"):
        OneCycleLR(two_groups(1.0), 10, fraction)

import pytest
import torch
from torch import nn

from detengine.config.load import load_config
from detengine.config.schema import Config
from detengine.solver.build import make_lr_scheduler, make_optimizer
from detengine.solver.lr_scheduler import OneCycleLR, WarmupCosineLR, WarmupMultiStepLR


def solver_of(*overrides: str) -> Config:
    return load_config(None, ["CONVENTIONS", "modern", *overrides])


def test_sgd_takes_its_numbers_from_the_configuration() -> None:
    cfg = solver_of(
        *("SOLVER.BASE_LR", "0.5", "SOLVER.BIAS_LR_FACTOR", "2", "SOLVER.MOMENTUM", "0.8"),
        *("SOLVER.WEIGHT_DECAY", "0.25", "SOLVER.WEIGHT_DECAY_BIAS", "0.125"),
    )
    optimizer = make_optimizer(cfg, nn.Linear(2, 1))
    assert isinstance(optimizer, torch.optim.SGD)
    weights, biases = optimizer.param_groups
    assert (weights["lr"], weights["weight_decay"], weights["momentum"]) == (0.5, 0.25, 0.8)
    assert (biases["lr"], biases["weight_decay"], biases["momentum"]) == (1.0, 0.125, 0.8)


def test_adamw_takes_its_numbers_from_the_configuration() -> None:
    cfg = solver_of("SOLVER.OPTIMIZER", "adamw", "SOLVER.BETAS", "(0.8, 0.95)")
    optimizer = make_optimizer(cfg, nn.Linear(2, 1))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.95)


@pytest.mark.parametrize(
    ("name", "kind", "corners"),
    [
        ("multistep", WarmupMultiStepLR, {0: 0.25, 10: 1.0, 50: 0.1, 80: 0.01, 100: 0.01}),
        ("cosine", WarmupCosineLR, {0: 0.25, 50: 0.6, 100: 0.2}),
        ("onecycle", OneCycleLR, {0: 0.25, 20: 1.0, 60: 0.6, 100: 0.2}),
    ],
)
def test_the_schedule_is_the_one_that_the_configuration_names(
    name: str, kind: type, corners: dict[int, float]
) -> None:
    cfg = solver_of(
        *("SOLVER.SCHEDULE", name, "SOLVER.BASE_LR", "1", "SOLVER.MAX_ITER", "100"),
        *("SOLVER.STEPS", "(50, 80)", "SOLVER.WARMUP_ITERS", "10", "SOLVER.WARMUP_FACTOR", "0.25"),
        *("SOLVER.MIN_LR_FACTOR", "0.2", "SOLVER.ONE_CYCLE_WARMUP_FRACTION", "0.2"),
    )
    optimizer = make_optimizer(cfg, nn.Linear(2, 1))
    scheduler = make_lr_scheduler(cfg, optimizer)
    assert type(scheduler) is kind
    rates = []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert {iteration: rates[iteration] for iteration in corners} == pytest.approx(corners)

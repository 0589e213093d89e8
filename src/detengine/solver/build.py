"""The optimizer and the learning-rate schedule of a configuration."""

from typing import Any

from torch import nn
from torch.optim import Optimizer

from detengine.config.schema import Config
from detengine.solver.lr_scheduler import (
    ClosedFormLR,
    OneCycleLR,
    WarmupCosineLR,
    WarmupMultiStepLR,
)
from detengine.solver.optimizers import adamw, parameter_groups, sgd


def make_optimizer(cfg: Config, model: nn.Module) -> Optimizer:
    """SGD or AdamW over the model's trainable parameters, which must be on their device already."""
    solver = cfg.SOLVER
    groups = parameter_groups(
        model.named_parameters(),
        lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        bias_lr=solver.BASE_LR * solver.BIAS_LR_FACTOR,
        bias_weight_decay=solver.WEIGHT_DECAY_BIAS,
    )
    if solver.OPTIMIZER == "adamw":
        return adamw(groups, betas=solver.BETAS)
    return sgd(groups, momentum=solver.MOMENTUM)


def make_lr_scheduler(cfg: Config, optimizer: Optimizer) -> ClosedFormLR:
    """The schedule that SOLVER.SCHEDULE names, to be stepped once after each iteration.

    One-cycle takes its lowest share of the rate at the start from WARMUP_FACTOR too.
    """
    solver = cfg.SOLVER
    if solver.SCHEDULE == "onecycle":
        return OneCycleLR(
            optimizer,
            solver.MAX_ITER,
            warmup_fraction=solver.ONE_CYCLE_WARMUP_FRACTION,
            start_factor=solver.WARMUP_FACTOR,
            min_factor=solver.MIN_LR_FACTOR,
        )
    warmup: dict[str, Any] = {
        "warmup_factor": solver.WARMUP_FACTOR,
        "warmup_iters": solver.WARMUP_ITERS,
        "warmup_method": solver.WARMUP_METHOD,
    }
    if solver.SCHEDULE == "cosine":
        return WarmupCosineLR(optimizer, solver.MAX_ITER, solver.MIN_LR_FACTOR, **warmup)
    return WarmupMultiStepLR(optimizer, solver.STEPS, solver.GAMMA, **warmup)

"""Optimizers over a model's weights and biases, fused where a step can be skipped on the device."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from detengine.solver.precision import SKIPPING_DEVICES

ParameterGroups = list[dict[str, Any]]


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    lr: float,
    weight_decay: float,
    bias_lr: float,
    bias_weight_decay: float,
) -> ParameterGroups:
    """Two groups, "weights" first and "biases", without the frozen parameters.

    A bias is what has "bias" in its name, those of norms included; a norm's scale is a weight. That
    is the predecessor's rule. Raises ValueError if nothing is to be trained.
    """
    trainable = [(name, each) for name, each in named_parameters if each.requires_grad]
    if not trainable:
        raise ValueError(
            "every parameter of the model is frozen, so there is nothing to train; "
            "set requires_grad of those that are to learn"
        )
    weights = [each for name, each in trainable if "bias" not in name]
    biases = [each for name, each in trainable if "bias" in name]
    return [
        {"name": "weights", "params": weights, "lr": lr, "weight_decay": weight_decay},
        {"name": "biases", "params": biases, "lr": bias_lr, "weight_decay": bias_weight_decay},
    ]


def sgd(groups: ParameterGroups, *, momentum: float) -> Optimizer:
    """SGD whose momentum begins at zero (`start_momentum_at_zero`)."""
    optimizer = torch.optim.SGD(groups, momentum=momentum, fused=_can_be_fused(groups))
    start_momentum_at_zero(optimizer)
    return optimizer


def start_momentum_at_zero(optimizer: Optimizer) -> None:
    """Give torch's SGD the momentum that it has not made yet; of other optimizers change nothing.

    torch makes it in the first step, and leaves it uninitialised if that one is skipped on the
    device. From zeros the first step comes out the same to the bit.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            if "momentum_buffer" not in optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def adamw(groups: ParameterGroups, *, betas: tuple[float, float]) -> Optimizer:
    """AdamW: weight decay apart from the gradient, in proportion to the learning rate."""
    return torch.optim.AdamW(groups, betas=betas, fused=_can_be_fused(groups))


def _can_be_fused(groups: ParameterGroups) -> bool:
    return all(parameter.device.type in SKIPPING_DEVICES for parameter in _parameters(groups))


def _parameters(groups: ParameterGroups) -> list[nn.Parameter]:
    return [parameter for group in groups for parameter in group["params"]]

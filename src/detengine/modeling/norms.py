"""The normalisations that stand behind convolutions and linear layers."""

from collections.abc import Callable

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

NormLayer = Callable[[int], nn.Module]
"""What to build behind a layer, for its number of channels."""


def frozen_batch_norm(epsilon: float) -> NormLayer:
    """Batch norm whose statistics and factors are loaded and stay as they are.

    epsilon: added to the variance; 0 in the predecessor, 1e-5 in torchvision.
    """
    return lambda channels: FrozenBatchNorm2d(channels, eps=epsilon)


def group_norm_of_groups(num_groups: int, epsilon: float) -> NormLayer:
    """Group norm of `num_groups` groups, or in a layer whose channels they do not divide, of the
    largest smaller number that does (the predecessor has no such layers: it raises)."""
    return lambda channels: nn.GroupNorm(
        _largest_divisor(channels, num_groups), channels, eps=epsilon
    )


def group_norm_of_width(channels_per_group: int, epsilon: float) -> NormLayer:
    """Group norm of as many groups as the layer has times `channels_per_group` channels.

    Building raises ValueError for a layer whose channels are no multiple of them.
    """

    def build(channels: int) -> nn.Module:
        if channels % channels_per_group:
            raise ValueError(
                f"MODEL.GROUP_NORM.DIM_PER_GP: {channels_per_group} channels to a group, but a "
                f"layer has {channels} channels, which is no multiple of it; set DIM_PER_GP to a "
                "divisor, or to -1 and NUM_GROUPS to a number of groups"
            )
        return nn.GroupNorm(channels // channels_per_group, channels, eps=epsilon)

    return build


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(min(limit, number), 0, -1) if number % d == 0)

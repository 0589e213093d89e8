"""Deformable convolution, plain (v1, arXiv 1703.06211) and modulated (v2, arXiv 1811.11168)."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torchvision.ops import DeformConv2d

Initialisation = Literal["caffe2", "torchvision"]
"""How parameters that no weights fill are drawn; see `reset_parameters` of each part."""


@dataclass(frozen=True)
class Deformation:
    """How convolutions are deformed.

    modulated: each sampling point has a weight in (0, 1) too. offset_groups: into how many parts
    the input's channels fall, each with offsets of its own.
    """

    modulated: bool = False
    offset_groups: int = 1


class DeformableConvolution(nn.Module):
    """A 3 x 3 convolution whose sampling points are moved by offsets that another one computes.

    The parameters are named as the predecessor's (layers/misc.py, DFConv2d): `offset.weight`,
    `offset.bias`, `conv.weight`. The offset convolution's channels are, for each offset group and
    sampling point, a shift down and a shift to the right in pixels of the input; behind all of
    them, if modulated, the weights' logits. Raises ValueError where the offset groups do not
    divide the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        deformation: Deformation,
        *,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        if in_channels % deformation.offset_groups:
            raise ValueError(
                f"MODEL.RESNETS.DEFORMABLE_GROUPS: {deformation.offset_groups}, but a deformable "
                f"convolution has {in_channels} channels, which is no multiple of it; set it to a "
                "divisor"
            )
        self.modulated = deformation.modulated
        points = 9 * deformation.offset_groups
        self.num_offsets = 2 * points
        computed = points * (3 if self.modulated else 2)
        self.offset = nn.Conv2d(in_channels, computed, kernel_size=3, stride=stride, padding=1)
        self.conv = DeformConv2d(
            in_channels, out_channels, 3, stride=stride, padding=1, groups=groups, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        offsets, weights = self.offset(x), None
        if self.modulated:
            offsets, logits = offsets[:, : self.num_offsets], offsets[:, self.num_offsets :]
            weights = logits.sigmoid()
        # Under autocast the map and the offsets are bfloat16, which torchvision's operator takes on
        # CUDA only; in float32 the positions are as exact as they come.
        dtype = self.conv.weight.dtype
        output: Tensor = self.conv(
            x.to(dtype), offsets.to(dtype), None if weights is None else weights.to(dtype)
        )
        return output.to(x.dtype)

    def reset_parameters(self, initialisation: Initialisation) -> None:
        """Draw the parameters anew.

        caffe2: as the predecessor does, whose offsets start at random. torchvision: as of any other
        convolution of its ResNets, and no offsets at the start, as the papers have it.
        """
        nn.init.constant_(self.offset.get_parameter("bias"), 0.0)
        if initialisation == "caffe2":
            bound = 1 / math.sqrt(self.offset.weight[0].numel())
            nn.init.uniform_(self.conv.weight, -bound, bound)
            nn.init.kaiming_uniform_(self.offset.weight, a=1)
        else:
            nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(self.offset.weight)

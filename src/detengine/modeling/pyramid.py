"""From a body's maps to what the heads see: a feature pyramid, or the coarsest map alone."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, Protocol

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from detengine.modeling.norms import NormLayer

CoarseLevels = Literal["pool", "p6p7"]
"""What lies behind the coarsest map of the body. pool: it once more, subsampled (stride 64).
p6p7: RetinaNet's two convolutions (64 and 128)."""


class Body(Protocol):
    """A network that returns maps of the image, finest first, and says which."""

    strides: tuple[int, ...]
    channels: tuple[int, ...]

    def __call__(self, images: Tensor) -> list[Tensor]: ...


class CoarsestMap(nn.Module):
    """A backbone without a pyramid: its body's last map alone.

    stride, out_channels: of that map.
    """

    def __init__(self, body: nn.Module, stride: int, out_channels: int) -> None:
        super().__init__()
        self.body = body
        self.strides = (stride,)
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: float[N, 3, H, W]. Returns [float[N, out_channels, H / stride, W / stride]]."""
        coarsest: Tensor = self.body(images)[-1]
        return [coarsest]


class Pyramid(nn.Module):
    """A body and the pyramid over it: maps of `out_channels` at each of `strides`, finest first.

    strides: consecutive powers of two; those that the body has, and coarser ones behind its
    coarsest map, by `coarse_levels`. norm_layer: stands behind each convolution, which then has no
    bias; None: none does. relu: a ReLU stands behind it. p6_of_c5: P6 is made of the body's
    coarsest map; where that has just `out_channels` channels it is made of P5 all the same, as in
    the predecessor (fpn.py).
    """

    def __init__(
        self,
        body: Body,
        strides: Sequence[int],
        out_channels: int,
        *,
        coarse_levels: CoarseLevels = "pool",
        p6_of_c5: bool = True,
        norm_layer: NormLayer | None = None,
        relu: bool = False,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.out_channels = out_channels
        self.used = [body.strides.index(stride) for stride in strides if stride in body.strides]
        self.body = body
        channels = [body.channels[index] for index in self.used]
        extra_blocks: ExtraFPNBlock | None = None
        if len(channels) < len(self.strides) and coarse_levels == "pool":
            extra_blocks = LastLevelMaxPool()
        elif len(channels) < len(self.strides):
            extra_blocks = LastLevelP6P7(channels[-1] if p6_of_c5 else out_channels, out_channels)
        # Of both ways of drawing parameters: uniform with the variance 1 / fan-in.
        self.fpn = FeaturePyramidNetwork(channels, out_channels, extra_blocks, norm_layer)
        if relu:
            for block in (*self.fpn.inner_blocks, *self.fpn.layer_blocks):
                block.append(nn.ReLU(inplace=True))

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: float[N, 3, H, W], H and W multiples of the coarsest stride up to 32."""
        outputs = self.body(images)
        named = OrderedDict((str(index), outputs[index]) for index in self.used)
        return list(self.fpn(named).values())

"""ResNet trunks of any width under a feature pyramid, with torchvision's parameter names."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

NormLayer = Callable[[int], nn.Module]


class ResNetDepth(NamedTuple):
    """What tells one ResNet from another: its block, and how many stand in each stage."""

    block: type[BasicBlock] | type[Bottleneck]
    blocks: tuple[int, int, int, int]

    @property
    def has_bottlenecks(self) -> bool:
        return self.block is Bottleneck


RESNET_DEPTHS = {
    18: ResNetDepth(BasicBlock, (2, 2, 2, 2)),
    34: ResNetDepth(BasicBlock, (3, 4, 6, 3)),
    50: ResNetDepth(Bottleneck, (3, 4, 6, 3)),
    101: ResNetDepth(Bottleneck, (3, 4, 23, 3)),
}

FIRST_STRIDE = 4
"""The stride of the first stage, layer1 (C2); each further one doubles it, up to 32 (C5)."""


def make_norm_layer(
    kind: Literal["FrozenBN", "BN", "GN"], *, num_groups: int = 32, eps: float = 1e-5
) -> NormLayer:
    """What to build behind a convolution, for a number of channels.

    GN takes `num_groups` groups, or in a narrower layer the largest number below that divides it.
    """
    if kind == "FrozenBN":
        return lambda channels: FrozenBatchNorm2d(channels, eps=eps)
    if kind == "BN":
        return lambda channels: nn.BatchNorm2d(channels, eps=eps)
    return lambda channels: nn.GroupNorm(_largest_divisor(channels, num_groups), channels, eps=eps)


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(min(limit, number), 0, -1) if number % d == 0)


class ResNet(nn.Module):
    """The stages of a ResNet, as many as are asked for; returns the output of each, finest first.

    stem_channels: of the first convolution. res2_planes: torchvision's `planes` of the first stage,
    64 in the standard nets; the stage puts out this many channels (four times as many with
    bottlenecks), each further stage twice as many. groups, width_per_group: of the bottleneck's 3 x
    3 convolution in the first stage.
    """

    def __init__(
        self,
        depth: ResNetDepth,
        num_stages: int,
        norm_layer: NormLayer,
        *,
        stem_channels: int = 64,
        res2_planes: int = 64,
        groups: int = 1,
        width_per_group: int = 64,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem_channels, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = norm_layer(stem_channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.out_channels: list[int] = []
        channels = stem_channels
        for stage in range(num_stages):
            planes = res2_planes * 2**stage
            # The block multiplies planes by base_width / 64 and cuts off: the hair more than exact
            # keeps a rounded quotient from costing a channel.
            base_width = 64 * width_per_group / res2_planes * (1 + 1e-9)
            options = {"groups": groups, "base_width": base_width} if depth.has_bottlenecks else {}
            blocks = []
            for index in range(depth.blocks[stage]):
                stride = 2 if index == 0 and stage > 0 else 1
                shortcut = _shortcut(channels, planes * depth.block.expansion, stride, norm_layer)
                blocks.append(
                    depth.block(
                        channels, planes, stride, shortcut, norm_layer=norm_layer, **options
                    )
                )
                channels = planes * depth.block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            self.out_channels.append(channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        outputs = []
        for stage in range(len(self.out_channels)):
            x = self.get_submodule(f"layer{stage + 1}")(x)
            outputs.append(x)
        return outputs

    def freeze(self, count: int) -> None:
        """Stop training the first `count` of: the stem, layer1, layer2, ...; below 1 none."""
        parts: list[nn.Module] = [nn.ModuleList([self.conv1, self.bn1])]
        parts += [self.get_submodule(f"layer{i + 1}") for i in range(len(self.out_channels))]
        for part in parts[: max(count, 0)]:
            part.requires_grad_(False)


def _shortcut(
    in_channels: int, out_channels: int, stride: int, norm_layer: NormLayer
) -> nn.Sequential | None:
    """The 1 x 1 convolution beside a block that changes the shape; None for the identity."""
    if stride == 1 and in_channels == out_channels:
        return None
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)
    return nn.Sequential(conv, norm_layer(out_channels))


class ResNetFPN(nn.Module):
    """A trunk and the pyramid over it: features of `out_channels` at each of `strides`, finest
    first.

    strides: consecutive powers of two; those of 4 to 32 are the trunk's stages, 64 is the coarsest
    stage once more, subsampled.
    """

    def __init__(
        self,
        body: ResNet,
        strides: Sequence[int],
        out_channels: int,
        norm_layer: NormLayer | None = None,
    ) -> None:
        super().__init__()
        self.stages = [stage_of_stride(s) for s in strides if s <= 32]
        self.body = body
        self.fpn = FeaturePyramidNetwork(
            [body.out_channels[stage] for stage in self.stages],
            out_channels,
            extra_blocks=LastLevelMaxPool() if strides[-1] == 64 else None,
            norm_layer=norm_layer,
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: float[N, 3, H, W], H and W multiples of the trunk's coarsest stride."""
        outputs = self.body(images)
        named = OrderedDict((str(stage), outputs[stage]) for stage in self.stages)
        return list(self.fpn(named).values())


def stage_of_stride(stride: int) -> int:
    """The index of the trunk's stage with this stride: 0 for 4 (layer1) to 3 for 32 (layer4)."""
    return int(math.log2(stride // FIRST_STRIDE))

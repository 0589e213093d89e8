"""The trunk and the heads that are made of FBNet's blocks, with the predecessor's names."""

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from fractions import Fraction

from torch import Tensor, nn

from detengine.modeling.fbnet_architectures import Block
from detengine.modeling.fbnet_blocks import (
    PRIMITIVES,
    InvertedResidual,
    Style,
    make_basic_block,
    make_shift_block,
    make_skip,
    rounded_width,
)


def total_stride(strides: Iterable[int]) -> Fraction:
    """Of layers one behind the other; negative strides enlarge."""
    return math.prod(
        (Fraction(s) if s > 0 else Fraction(1, -s) for s in strides), start=Fraction(1)
    )


def make_blocks(
    blocks: Sequence[Block], in_channels: int, style: Style
) -> tuple[nn.Sequential, int]:
    """The blocks one behind the other, each by its name, and the channels that they put out.

    Raises ValueError, naming the block, for one that cannot be built.
    """
    modules = OrderedDict[str, nn.Module]()
    for block in blocks:
        _raise_if_stride_is_wrong(block)
        _raise_if_groups_do_not_divide(block, in_channels, style)
        modules[block.name] = _make_block(block, in_channels, style)
        in_channels = style.width(block.channels)
    return nn.Sequential(modules), in_channels


def _make_block(block: Block, in_channels: int, style: Style) -> nn.Module:
    primitive, channels = PRIMITIVES[block.primitive], style.width(block.channels)
    match primitive.kind:
        case "skip":
            return make_skip(in_channels, channels, block.stride, style.norm_layer)
        case "basic_block":
            return make_basic_block(in_channels, channels, block.stride, style.norm_layer)
        case "shift":
            inner = rounded_width(in_channels * block.expansion, 8)
            return make_shift_block(
                in_channels, inner, channels, stride=block.stride, norm_layer=style.norm_layer
            )
        case "inverted_residual":
            inner = _inner_width(block, in_channels, style)
            return InvertedResidual(
                in_channels, inner, channels, stride=block.stride, primitive=primitive, style=style
            )


def _inner_width(block: Block, in_channels: int, style: Style) -> int:
    expansion = PRIMITIVES[block.primitive].expansion or block.expansion
    return rounded_width(int(in_channels * expansion), style.width_divisor)


def _raise_if_stride_is_wrong(block: Block) -> None:
    primitive = PRIMITIVES[block.primitive]
    strides = {"inverted_residual": (1, 2, 4, -1, -2, -4), "skip": (1, 2, 4)}
    allowed = strides.get(primitive.kind, (1, 2))
    if primitive.kernel == 1:  # there is no depthwise convolution that could stride
        allowed = (1, -1, -2, -4)
    if block.stride not in allowed:
        raise ValueError(
            f"block {block.name} is {block.primitive} with stride {block.stride}, but this kind "
            f"takes one of {', '.join(map(str, allowed))}; change the stride or the kind"
        )


def _raise_if_groups_do_not_divide(block: Block, in_channels: int, style: Style) -> None:
    groups = PRIMITIVES[block.primitive].groups
    widths = [in_channels, _inner_width(block, in_channels, style), style.width(block.channels)]
    if any(width % groups for width in widths):
        raise ValueError(
            f"block {block.name} is {block.primitive}, whose {groups} groups must divide its "
            f"channels, but those are {', '.join(map(str, widths))} (in, inside, out); change the "
            f"widths, or make all of them multiples of {groups} by MODEL.FBNET.WIDTH_DIVISOR"
        )


class Trunk(nn.Module):
    """The first convolution and the backbone's blocks; puts out one map.

    strides: of the maps, here one. out_channels: of each map.
    """

    def __init__(self, first: nn.Module, stages: nn.Module, stride: int, out_channels: int) -> None:
        super().__init__()
        self.first = first
        self.stages = stages
        self.strides = (stride,)
        self.out_channels = out_channels

    def forward(self, batch: Tensor) -> list[Tensor]:
        """float[N, 3, H, W] -> [float[N, C, H / stride, W / stride]], sides rounded up."""
        return [self.stages(self.first(batch))]


class ProposalFeatures(nn.Module):
    """The blocks before the proposal head's predictor, on every map."""

    def __init__(self, blocks: nn.Module) -> None:
        super().__init__()
        self.head = blocks

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [self.head(feature) for feature in features]


class ProposalPredictor(nn.Module):
    """A logit and four deltas for each anchor: pointwise convolutions, drawn with deviation 0.01.

    features -> (logits float[N, A, H, W] of each map, deltas float[N, 4 A, H, W] of each).
    """

    def __init__(self, in_channels: int, num_anchors: int) -> None:
        super().__init__()
        self.cls_logits = nn.Conv2d(in_channels, num_anchors, 1)
        self.bbox_pred = nn.Conv2d(in_channels, 4 * num_anchors, 1)
        for layer in (self.cls_logits, self.bbox_pred):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits = [self.cls_logits(feature) for feature in features]
        return logits, [self.bbox_pred(feature) for feature in features]


class ProposalHead(nn.Sequential):
    """Maps to logits and deltas of the same size."""

    def __init__(self, blocks: nn.Module, predictor: ProposalPredictor) -> None:
        super().__init__(ProposalFeatures(blocks), predictor)


class RegionFeatures(nn.Module):
    """A region head's blocks and its last layer: [R, C, S, S] -> [R, out_channels, S', S']."""

    def __init__(self, blocks: nn.Module, last: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.last = last
        self.out_channels = out_channels

    def forward(self, pooled: Tensor) -> Tensor:
        features: Tensor = self.last(self.blocks(pooled))
        return features

"""From the configuration to FBNet's trunk and heads."""

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Literal

from torch import nn

from detengine.config.schema import Config
from detengine.modeling.fbnet import (
    ProposalHead,
    ProposalPredictor,
    RegionFeatures,
    Trunk,
    make_blocks,
    total_stride,
)
from detengine.modeling.fbnet_architectures import (
    ARCHITECTURES,
    Architecture,
    Block,
    read_architecture,
)
from detengine.modeling.fbnet_blocks import Style, conv_norm_relu, rounded_width
from detengine.modeling.norms import NormLayer, frozen_batch_norm

_SECTION_OF_KIND = {"bbox": "DET", "mask": "MASK", "kpts": "KPTS"}


def build_fbnet_body(cfg: Config) -> Trunk:
    """The trunk: a batch float[N, 3, H, W] to one map.

    Raises ValueError, naming the key, for an architecture that cannot be built.
    """
    architecture, style = _architecture(cfg), _style(cfg)
    first, blocks = architecture.first, _blocks_of(architecture, "backbone")
    width = style.width(first.channels)
    stem = conv_norm_relu(3, width, first.kernel, style.norm_layer, stride=first.stride)
    stages, channels = make_blocks(blocks, width, style)
    return Trunk(stem, stages, _trunk_stride(architecture), channels)


def build_fbnet_rpn_head(cfg: Config, in_channels: int, num_anchors: int) -> ProposalHead:
    """The proposal head: maps of in_channels to (logits, deltas) of num_anchors in each cell.

    Raises ValueError, naming the key, for values that do not fit together.
    """
    architecture, style = _architecture(cfg), _style(cfg)
    rpn_norm = cfg.MODEL.FBNET.RPN_BN_TYPE
    if rpn_norm:
        style = replace(style, norm_layer=_norm_layer(cfg, rpn_norm))
    stages = architecture.stages_of("rpn")
    _raise_if_part_is_missing(cfg, "rpn", stages)
    blocks = [block for stage in stages for block in stage]
    count = cfg.MODEL.FBNET.RPN_HEAD_BLOCKS
    if count > len(blocks):
        raise ValueError(
            f"MODEL.FBNET.RPN_HEAD_BLOCKS: {count}, but the rpn stages of MODEL.FBNET.ARCH: "
            f"{cfg.MODEL.FBNET.ARCH} have {len(blocks)} blocks; give at most that, or 0 for all"
        )
    blocks = blocks[-count:]
    features, channels = make_blocks(blocks, in_channels, style)
    stride = total_stride(block.stride for block in blocks)
    if stride != 1:
        raise ValueError(
            f"MODEL.FBNET.ARCH: the rpn stages of {cfg.MODEL.FBNET.ARCH} have the stride {stride}, "
            "but the anchors stand on the trunk's maps; give the stages stride 1"
        )
    return ProposalHead(features, ProposalPredictor(channels, num_anchors))


def build_fbnet_roi_head(
    cfg: Config, kind: Literal["bbox", "mask", "kpts"], *, in_channels: int | None = None
) -> RegionFeatures:
    """The layers of a region head: pooled float[R, in_channels, S, S] to [R, out_channels, S', S'].

    in_channels: of the backbone's maps; None: of the architecture's own trunk. R may be 0.
    Raises ValueError, naming the key, for values that do not fit together.
    """
    architecture, style = _architecture(cfg), _style(cfg)
    if in_channels is None:
        trunk = _blocks_of(architecture, "backbone")
        in_channels = style.width(trunk[-1].channels if trunk else architecture.first.channels)
    blocks, channels = make_blocks(_head_blocks(cfg, architecture, kind), in_channels, style)
    scale = getattr(cfg.MODEL.FBNET, f"{_SECTION_OF_KIND[kind]}_HEAD_LAST_SCALE")
    width = _last_width(architecture.last_channels, channels, scale, style)
    if width == 0:
        return RegionFeatures(blocks, nn.Sequential(), channels)
    return RegionFeatures(blocks, conv_norm_relu(channels, width, 1, style.norm_layer), width)


def _architecture(cfg: Config) -> Architecture:
    """ARCH_DEF, or the known architecture of the name ARCH; both, if they are the same."""
    fbnet = cfg.MODEL.FBNET
    known = ARCHITECTURES.get(fbnet.ARCH)
    given = None
    if fbnet.ARCH_DEF:
        try:
            given = read_architecture(fbnet.ARCH_DEF)
        except ValueError as error:
            raise ValueError(f"MODEL.FBNET.ARCH_DEF: {error}") from None
    architecture = known or given
    if architecture is None:
        nearest = get_close_matches(fbnet.ARCH, ARCHITECTURES, 1)
        raise ValueError(
            f"MODEL.FBNET.ARCH: {fbnet.ARCH!r} is not known"
            + (f" (did you mean {nearest[0]}?)" if nearest else "")
            + f"; expected one of {', '.join(ARCHITECTURES)}, or define it in MODEL.FBNET.ARCH_DEF"
        )
    if None not in (known, given) and known != given:
        raise ValueError(
            f"MODEL.FBNET.ARCH_DEF is not the architecture that MODEL.FBNET.ARCH: {fbnet.ARCH} "
            "already names; give your own another name in MODEL.FBNET.ARCH"
        )
    _raise_if_stride_differs(cfg, architecture)
    return architecture


def _raise_if_stride_differs(cfg: Config, architecture: Architecture) -> None:
    strides, expected = cfg.MODEL.RPN.ANCHOR_STRIDE, architecture.rpn_stride
    if expected is not None and strides[0] != expected:
        raise ValueError(
            f"MODEL.RPN.ANCHOR_STRIDE: {list(strides)}, but MODEL.FBNET.ARCH: "
            f"{cfg.MODEL.FBNET.ARCH} is made for {expected} (its rpn_stride); set it to "
            f"[{expected}]"
        )


def _style(cfg: Config) -> Style:
    fbnet = cfg.MODEL.FBNET
    return Style(
        _norm_layer(cfg, fbnet.BN_TYPE),
        fbnet.SCALE_FACTOR,
        fbnet.WIDTH_DIVISOR,
        depthwise_norm=not fbnet.DW_CONV_SKIP_BN,
        depthwise_relu=not fbnet.DW_CONV_SKIP_RELU,
    )


def _norm_layer(cfg: Config, kind: Literal["bn", "af", "gn"]) -> NormLayer:
    # build_backbone imports this file.
    from detengine.modeling.build_backbone import make_norm

    match kind:
        case "bn":
            return nn.BatchNorm2d
        case "af":
            return frozen_batch_norm(cfg.MODEL.ARITHMETIC.FROZEN_BN_EPSILON)
        case "gn":
            return make_norm(cfg, "GN")


def _blocks_of(architecture: Architecture, part: str) -> list[Block]:
    return [block for stage in architecture.stages_of(part) for block in stage]


def _trunk_stride(architecture: Architecture) -> int:
    blocks = _blocks_of(architecture, "backbone")
    stride = total_stride([architecture.first.stride, *(block.stride for block in blocks)])
    if stride.denominator != 1:
        raise ValueError(
            f"MODEL.FBNET.ARCH_DEF: the backbone's strides multiply to {stride}, which is not a "
            "whole number of pixels; change the strides of its blocks"
        )
    return stride.numerator


def _head_blocks(cfg: Config, architecture: Architecture, kind: str) -> list[Block]:
    """The stages' blocks at the places that <kind>_HEAD_BLOCKS gives, the first with its stride."""
    fbnet, key = cfg.MODEL.FBNET, f"{_SECTION_OF_KIND[kind]}_HEAD"
    stages = architecture.stages_of(kind)
    _raise_if_part_is_missing(cfg, kind, stages)
    places, stride = getattr(fbnet, f"{key}_BLOCKS"), getattr(fbnet, f"{key}_STRIDE")
    if stride not in (0, 1, 2):
        raise ValueError(
            f"MODEL.FBNET.{key}_STRIDE: {stride}; expected 1, 2, or 0 for the architecture's own"
        )
    longest = max(len(stage) for stage in stages)
    if places and max(places) >= longest:
        raise ValueError(
            f"MODEL.FBNET.{key}_BLOCKS: {list(places)}, but the {kind} stages of MODEL.FBNET.ARCH: "
            f"{fbnet.ARCH} have the blocks 0 to {longest - 1}; choose of them, or give [] for all"
        )
    chosen = [
        block
        for stage in stages
        for place, block in enumerate(stage)
        if not places or place in places
    ]
    return [chosen[0]._replace(stride=stride), *chosen[1:]] if stride else chosen


def _raise_if_part_is_missing(cfg: Config, part: str, stages: Sequence[tuple[Block, ...]]) -> None:
    if not stages:
        raise ValueError(
            f"MODEL.FBNET.ARCH: {cfg.MODEL.FBNET.ARCH} has no {part} stages, of which the FBNet "
            f"head would be made; choose another head or another architecture, or define one "
            f"with {part!r} in MODEL.FBNET.ARCH_DEF"
        )


def _last_width(channels: int, before: int, scale: float, style: Style) -> int:
    """The width of the layer that ends a region head; 0: there is none.

    channels: the architecture's, which only a SCALE_FACTOR above 1 changes. before: the channels
    that come in, which a negative scale refers to.
    """
    if scale < 0:
        return rounded_width(int(before * -scale), style.width_divisor)
    wide = int(channels * max(style.width_ratio, 1.0))
    return rounded_width(int(wide * scale), style.width_divisor)

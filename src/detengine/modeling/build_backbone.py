"""From the configuration to a backbone: the body, its norms, and the pyramid over it."""

from collections.abc import Sequence
from difflib import get_close_matches

from torch import nn

from detengine.config.schema import Config
from detengine.config.schema_model import FeaturePyramid
from detengine.config.schema_rcnn import BoxHead, MaskHead, NormKind
from detengine.modeling.build_fbnet import build_fbnet_body
from detengine.modeling.deformable import Deformation
from detengine.modeling.norms import (
    NormLayer,
    frozen_batch_norm,
    group_norm_of_groups,
    group_norm_of_width,
)
from detengine.modeling.pyramid import Body, CoarsestMap, Pyramid
from detengine.modeling.resnet import RESNET_DEPTHS, STAGE_STRIDES, Res5Head, ResNet, ResNetPlan
from detengine.modeling.timm_body import TimmBody

_RESNETS = {
    f"R-{depth}-{kind}": (depth, kind)
    for kind in ("C4", "C5", "FPN", "FPN-RETINANET")
    for depth in RESNET_DEPTHS
}
_TIMM = "timm:"

_NORM_OF_BLOCK: dict[str, NormKind] = {
    "BottleneckWithFixedBatchNorm": "FrozenBN",
    "BottleneckWithGN": "GN",
}
_NORM_OF_STEM: dict[str, NormKind] = {"StemWithFixedBatchNorm": "FrozenBN", "StemWithGN": "GN"}


def build_backbone(cfg: Config) -> nn.Module:
    """The backbone that MODEL.BACKBONE.CONV_BODY names.

    It maps float[N, 3, H, W] to a list of float[N, out_channels, H / stride, W / stride], finest
    first, and has the attributes `strides`, one of each map, and `out_channels`. Raises ValueError,
    naming the key, for a name or a value that fits nothing.
    """
    name = cfg.MODEL.BACKBONE.CONV_BODY
    if name.startswith(_TIMM):
        return _build_timm(cfg, name.removeprefix(_TIMM))
    if name == "FBNet":
        trunk = build_fbnet_body(cfg)
        return CoarsestMap(trunk, trunk.strides[-1], trunk.out_channels)
    if name not in _RESNETS:
        nearest = get_close_matches(name, [*_RESNETS, "FBNet"], 1)
        raise ValueError(
            f"MODEL.BACKBONE.CONV_BODY: {name!r} is not known"
            f"{f' (did you mean {nearest[0]}?)' if nearest else ''}; expected one of "
            f"{', '.join(_RESNETS)}, FBNet, or timm:NAME for a model of timm"
        )
    return _build_resnet(cfg, *_RESNETS[name])


def build_res5(cfg: Config) -> Res5Head:
    """The last stage of the C4 models' ResNet, which their heads run over the pooled regions.

    Of a body that is no ResNet, the stage of ResNet-50, as in the predecessor.
    """
    depth, _ = _RESNETS.get(cfg.MODEL.BACKBONE.CONV_BODY, (50, "C4"))
    dilation = cfg.MODEL.RESNETS.RES5_DILATION
    if dilation > 1 and not RESNET_DEPTHS[depth].has_bottlenecks:
        raise ValueError(
            f"MODEL.RESNETS.RES5_DILATION: {dilation}, but a ResNet-{depth} has no bottleneck "
            "blocks, and others cannot be dilated; leave it at 1"
        )
    return Res5Head(_resnet_plan(cfg, depth), dilation)


def make_norm(cfg: Config, kind: NormKind) -> NormLayer:
    """The normalisation of this kind, with the numbers of the configuration."""
    if kind == "FrozenBN":
        return frozen_batch_norm(cfg.MODEL.ARITHMETIC.FROZEN_BN_EPSILON)
    if kind == "BN":
        return nn.BatchNorm2d
    options = cfg.MODEL.GROUP_NORM
    if options.NUM_GROUPS == -1:
        return group_norm_of_width(options.DIM_PER_GP, options.EPSILON)
    return group_norm_of_groups(options.NUM_GROUPS, options.EPSILON)


def make_norm_of(cfg: Config, section: FeaturePyramid | BoxHead | MaskHead) -> NormLayer | None:
    """The normalisation that a section asks for, by its NORM or its USE_GN; None: none."""
    kind = "GN" if section.USE_GN else section.NORM
    return None if kind is None else make_norm(cfg, kind)


def _build_resnet(cfg: Config, depth: int, kind: str) -> nn.Module:
    plan = _resnet_plan(cfg, depth)
    levels = _levels(cfg) if kind.startswith("FPN") else None
    coarsest = {"C4": 16, "C5": 32}[kind] if levels is None else min(levels[-1], 32)
    body = ResNet(plan, STAGE_STRIDES.index(coarsest) + 1)
    body.freeze(cfg.MODEL.BACKBONE.FREEZE_CONV_BODY_AT)
    if levels is not None:
        return _build_pyramid(cfg, body, levels)
    out_channels = cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS
    if out_channels != body.channels[-1]:
        raise ValueError(
            f"MODEL.RESNETS.BACKBONE_OUT_CHANNELS: {out_channels}, but without a pyramid "
            f"{cfg.MODEL.BACKBONE.CONV_BODY} has {body.channels[-1]} channels "
            f"(MODEL.RESNETS.RES2_OUT_CHANNELS: {cfg.MODEL.RESNETS.RES2_OUT_CHANNELS}); set it to "
            f"{body.channels[-1]}"
        )
    return CoarsestMap(body, body.strides[-1], out_channels)


def _build_timm(cfg: Config, name: str) -> nn.Module:
    """A body of timm under a pyramid, or, where the RPN has none, its map of the RPN's stride."""
    if cfg.MODEL.BACKBONE.NORM != "FrozenBN" or any(cfg.MODEL.RESNETS.STAGE_WITH_DCN):
        raise ValueError(
            f"MODEL.BACKBONE.CONV_BODY: {cfg.MODEL.BACKBONE.CONV_BODY} has its own norms and "
            f"convolutions, but MODEL.BACKBONE.NORM is {cfg.MODEL.BACKBONE.NORM} and "
            f"MODEL.RESNETS.STAGE_WITH_DCN {list(cfg.MODEL.RESNETS.STAGE_WITH_DCN)}; leave these "
            "at FrozenBN and false"
        )
    has_pyramid = cfg.MODEL.RPN.USE_FPN or cfg.MODEL.RETINANET_ON
    levels = _levels(cfg) if has_pyramid else list(cfg.MODEL.RPN.ANCHOR_STRIDE)
    body = TimmBody(name, [stride for stride in levels if stride <= 32])
    body.freeze(cfg.MODEL.BACKBONE.FREEZE_CONV_BODY_AT)
    if has_pyramid:
        return _build_pyramid(cfg, body, levels)
    return CoarsestMap(body, body.strides[-1], body.channels[-1])


def _build_pyramid(cfg: Config, body: Body, levels: Sequence[int]) -> Pyramid:
    return Pyramid(
        body,
        levels,
        cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS,
        coarse_levels="p6p7" if cfg.MODEL.RETINANET_ON else "pool",
        p6_of_c5=cfg.MODEL.RETINANET.USE_C5,
        norm_layer=make_norm_of(cfg, cfg.MODEL.FPN),
        relu=cfg.MODEL.FPN.USE_RELU,
    )


def _levels(cfg: Config) -> list[int]:
    """The strides of the pyramid's levels, finest first."""
    if cfg.MODEL.RETINANET_ON:
        key, strides = "MODEL.RETINANET.ANCHOR_STRIDES", list(cfg.MODEL.RETINANET.ANCHOR_STRIDES)
        known, ends = [*STAGE_STRIDES, 64, 128], "64 and 128 both or neither"
    else:
        key, strides = "MODEL.RPN.ANCHOR_STRIDE", list(cfg.MODEL.RPN.ANCHOR_STRIDE)
        known, ends = [*STAGE_STRIDES, 64], "64 only behind 32"
    is_run = any(strides == known[i : i + len(strides)] for i in range(len(known)))
    if not is_run or strides[0] > 32 or strides[-1] not in (*STAGE_STRIDES, known[-1]):
        raise ValueError(
            f"{key}: {strides} are the pyramid's levels, and must be a run of "
            f"{', '.join(map(str, known))} with no gap ({ends}), for example {known[1:]}"
        )
    return strides


def _resnet_plan(cfg: Config, depth: int) -> ResNetPlan:
    resnets = cfg.MODEL.RESNETS
    _raise_if_not_buildable(cfg, depth)
    return ResNetPlan(
        RESNET_DEPTHS[depth],
        make_norm(cfg, _norm_kind(cfg, "TRANS_FUNC", _NORM_OF_BLOCK)),
        make_norm(cfg, _norm_kind(cfg, "STEM_FUNC", _NORM_OF_STEM)),
        stem_channels=resnets.STEM_OUT_CHANNELS,
        res2_planes=resnets.RES2_OUT_CHANNELS // 4,
        groups=resnets.NUM_GROUPS,
        width_per_group=resnets.WIDTH_PER_GROUP,
        stride_in_1x1=resnets.STRIDE_IN_1X1,
        deformation=Deformation(resnets.WITH_MODULATED_DCN, resnets.DEFORMABLE_GROUPS),
        deformed_stages=resnets.STAGE_WITH_DCN,
        initialisation=cfg.MODEL.INITIALISATION,
    )


def _raise_if_not_buildable(cfg: Config, depth: int) -> None:
    name, resnets = cfg.MODEL.BACKBONE.CONV_BODY, cfg.MODEL.RESNETS
    if resnets.RES2_OUT_CHANNELS % 4:
        raise ValueError(
            f"MODEL.RESNETS.RES2_OUT_CHANNELS: {resnets.RES2_OUT_CHANNELS} is not a multiple of 4 "
            "(a fourth of it is the width of the first stage)"
        )
    if RESNET_DEPTHS[depth].has_bottlenecks:
        return
    if (resnets.NUM_GROUPS, resnets.WIDTH_PER_GROUP) != (1, 64):
        raise ValueError(
            f"MODEL.RESNETS: NUM_GROUPS {resnets.NUM_GROUPS} and WIDTH_PER_GROUP "
            f"{resnets.WIDTH_PER_GROUP} are of bottleneck blocks, and {name} has none; leave them "
            "at 1 and 64, and set its width by RES2_OUT_CHANNELS"
        )
    if any(resnets.STAGE_WITH_DCN):
        raise ValueError(
            f"MODEL.RESNETS.STAGE_WITH_DCN: {list(resnets.STAGE_WITH_DCN)} deforms bottleneck "
            f"blocks, and {name} has none; leave it all false, or take R-50 or deeper"
        )


def _norm_kind(cfg: Config, key: str, kinds: dict[str, NormKind]) -> NormKind:
    """The norm that RESNETS.TRANS_FUNC or STEM_FUNC names, or BACKBONE.NORM where both agree.

    A value other than the default wins over the other key's default; two such that differ are an
    error.
    """
    name, norm = getattr(cfg.MODEL.RESNETS, key), cfg.MODEL.BACKBONE.NORM
    if kinds[name] == "FrozenBN":
        return norm
    if norm not in ("FrozenBN", kinds[name]):
        raise ValueError(
            f"MODEL.RESNETS.{key}: {name} and MODEL.BACKBONE.NORM: {norm} contradict each other; "
            f"set {key} to {next(iter(kinds))}, or NORM to {kinds[name]}"
        )
    return kinds[name]

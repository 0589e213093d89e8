"""From the configuration to a model: the only file here that knows the configuration's keys."""

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from torch import nn
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead

from detengine.config.conventions import raise_if_not_modern
from detengine.config.schema import Config
from detengine.modeling.adapters import adapt
from detengine.modeling.backbones import (
    RESNET_DEPTHS,
    NormLayer,
    ResNet,
    ResNetFPN,
    make_norm_layer,
    stage_of_stride,
)
from detengine.modeling.boxes import ContinuousBoxes
from detengine.modeling.builder import build_by_name
from detengine.modeling.poolers import Pooler
from detengine.modeling.preprocess import Preprocess
from detengine.modeling.rcnn import GeneralizedRCNN
from detengine.modeling.roi_heads import Branch, RoIHeads
from detengine.modeling.rpn import ProposalLimits, RegionProposalNetwork

_DEPTH_OF_BODY = {f"R-{depth}-FPN": depth for depth in RESNET_DEPTHS}

_ONLY_BUILT_WITH: dict[str, Any] = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.RETINANET_ON": False,
    "MODEL.RPN_ONLY": False,
    "MODEL.KEYPOINT_ON": False,
    "MODEL.CLS_AGNOSTIC_BBOX_REG": False,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.RES5_DILATION": 1,
    "MODEL.RESNETS.STAGE_WITH_DCN": (False, False, False, False),
    "MODEL.RESNETS.TRANS_FUNC": "BottleneckWithFixedBatchNorm",
    "MODEL.RESNETS.STEM_FUNC": "StemWithFixedBatchNorm",
    "MODEL.GROUP_NORM.DIM_PER_GP": -1,
    "MODEL.FPN.USE_RELU": False,
    "MODEL.RPN.USE_FPN": True,
    "MODEL.RPN.RPN_HEAD": "SingleConvRPNHead",
    "MODEL.RPN.STRADDLE_THRESH": -1,
    "MODEL.RPN.FPN_POST_NMS_PER_BATCH": False,
    "MODEL.ROI_HEADS.USE_FPN": True,
    "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR": "FPN2MLPFeatureExtractor",
    "MODEL.ROI_BOX_HEAD.PREDICTOR": "FPNPredictor",
    "MODEL.ROI_BOX_HEAD.USE_GN": False,
    "INPUT.TO_BGR255": False,
}
_MASKS_ONLY_BUILT_WITH: dict[str, Any] = {
    "MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR": "MaskRCNNFPNFeatureExtractor",
    "MODEL.ROI_MASK_HEAD.PREDICTOR": "MaskRCNNC4Predictor",
    "MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR": False,
    "MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS": False,
}


def build_detection_model(cfg: Config) -> nn.Module:
    """Build Faster or Mask R-CNN over a ResNet pyramid, or call the user's MODEL.BUILDER.

    The model takes uint8 images and our targets. Raises ValueError, naming the key, for a value
    that fits nothing that is built; see `build_by_name` for what a builder may raise.
    """
    if cfg.MODEL.BUILDER is not None:
        return adapt(build_by_name(cfg.MODEL.BUILDER, cfg))
    raise_if_not_modern(cfg)
    _raise_if_not_built(cfg, _ONLY_BUILT_WITH)
    if cfg.MODEL.MASK_ON:
        _raise_if_not_built(cfg, _MASKS_ONLY_BUILT_WITH)
    strides = _pyramid_strides(cfg)
    size_divisible = math.lcm(min(strides[-1], 32), cfg.DATALOADER.SIZE_DIVISIBILITY or 1)
    return GeneralizedRCNN(
        Preprocess(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD, size_divisible),
        _build_backbone(cfg, strides),
        _build_rpn(cfg, strides),
        _build_roi_heads(cfg, strides),
    )


def _raise_if_not_built(cfg: Config, built_with: Mapping[str, Any]) -> None:
    for key, expected in built_with.items():
        given = reduce(getattr, key.split("."), cfg)
        if given != expected:
            raise ValueError(
                f"{key}: {given!r} is not built under CONVENTIONS: modern yet, only "
                f"{expected!r} is; use that, or bring a model of your own with MODEL.BUILDER"
            )


def _pyramid_strides(cfg: Config) -> list[int]:
    """The strides of the pyramid's levels, finest first."""
    strides, sizes = list(cfg.MODEL.RPN.ANCHOR_STRIDE), list(cfg.MODEL.RPN.ANCHOR_SIZES)
    if not strides or not _is_run_of([4, 8, 16, 32, 64], strides) or strides == [64]:
        raise ValueError(
            f"MODEL.RPN.ANCHOR_STRIDE: {strides} are the pyramid's levels, and must be a run of "
            "4, 8, 16, 32, 64 with no gap (64 only behind 32), for example [4, 8, 16]"
        )
    if len(sizes) != len(strides):
        raise ValueError(
            f"MODEL.RPN.ANCHOR_SIZES: {sizes} gives {len(sizes)} sizes for the {len(strides)} "
            f"levels of MODEL.RPN.ANCHOR_STRIDE: {strides}; give one size, "
            "in pixels, for each level"
        )
    return strides


def _is_run_of(whole: Sequence[int], part: Sequence[int]) -> bool:
    """Whether `part` stands in `whole` without a gap."""
    return any(list(part) == list(whole[i : i + len(part)]) for i in range(len(whole)))


def _build_backbone(cfg: Config, strides: Sequence[int]) -> ResNetFPN:
    name, resnets = cfg.MODEL.BACKBONE.CONV_BODY, cfg.MODEL.RESNETS
    if name not in _DEPTH_OF_BODY:
        raise ValueError(
            f"MODEL.BACKBONE.CONV_BODY: {name!r} is not known; expected one of "
            f"{', '.join(_DEPTH_OF_BODY)}"
        )
    if resnets.RES2_OUT_CHANNELS % 4:
        raise ValueError(
            f"MODEL.RESNETS.RES2_OUT_CHANNELS: {resnets.RES2_OUT_CHANNELS} is not a multiple of 4 "
            "(a fourth of it is the width of the first stage)"
        )
    depth = RESNET_DEPTHS[_DEPTH_OF_BODY[name]]
    if not depth.has_bottlenecks and (resnets.NUM_GROUPS, resnets.WIDTH_PER_GROUP) != (1, 64):
        raise ValueError(
            f"MODEL.RESNETS: NUM_GROUPS {resnets.NUM_GROUPS} and WIDTH_PER_GROUP "
            f"{resnets.WIDTH_PER_GROUP} are of bottleneck blocks, and {name} has none; leave them "
            "at 1 and 64, and set its width by RES2_OUT_CHANNELS"
        )
    body = ResNet(
        depth,
        stage_of_stride(min(strides[-1], 32)) + 1,
        _norm_layer(cfg, cfg.MODEL.BACKBONE.NORM),
        stem_channels=resnets.STEM_OUT_CHANNELS,
        res2_planes=resnets.RES2_OUT_CHANNELS // 4,
        groups=resnets.NUM_GROUPS,
        width_per_group=resnets.WIDTH_PER_GROUP,
    )
    body.freeze(cfg.MODEL.BACKBONE.FREEZE_CONV_BODY_AT)
    pyramid_norm = _norm_layer(cfg, "GN") if cfg.MODEL.FPN.USE_GN else None
    return ResNetFPN(body, strides, resnets.BACKBONE_OUT_CHANNELS, pyramid_norm)


def _norm_layer(cfg: Config, kind: Any) -> NormLayer:
    group_norm = cfg.MODEL.GROUP_NORM
    if group_norm.NUM_GROUPS < 1:
        raise ValueError(
            f"MODEL.GROUP_NORM.NUM_GROUPS: {group_norm.NUM_GROUPS}, but there must be at least 1"
        )
    return make_norm_layer(kind, num_groups=group_norm.NUM_GROUPS, eps=group_norm.EPSILON)


def _build_rpn(cfg: Config, strides: Sequence[int]) -> RegionProposalNetwork:
    rpn = cfg.MODEL.RPN
    return RegionProposalNetwork(
        AnchorGenerator(
            tuple((size,) for size in rpn.ANCHOR_SIZES), (tuple(rpn.ASPECT_RATIOS),) * len(strides)
        ),
        RPNHead(cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS, len(rpn.ASPECT_RATIOS)),
        arithmetic=ContinuousBoxes(),
        matcher=Matcher(rpn.FG_IOU_THRESHOLD, rpn.BG_IOU_THRESHOLD, allow_low_quality_matches=True),
        samples_per_image=rpn.BATCH_SIZE_PER_IMAGE,
        positive_fraction=rpn.POSITIVE_FRACTION,
        train_limits=_proposal_limits(cfg, "TRAIN"),
        test_limits=_proposal_limits(cfg, "TEST"),
        nms_threshold=rpn.NMS_THRESH,
        min_size=rpn.MIN_SIZE,
        smooth_l1_beta=rpn.SMOOTH_L1_BETA,
    )


def _proposal_limits(cfg: Config, mode: str) -> ProposalLimits:
    names = (f"PRE_NMS_TOP_N_{mode}", f"POST_NMS_TOP_N_{mode}", f"FPN_POST_NMS_TOP_N_{mode}")
    before, of_level, of_image = (getattr(cfg.MODEL.RPN, name) for name in names)
    if of_level < of_image:
        raise ValueError(
            f"MODEL.RPN.{names[1]}: {of_level} is below MODEL.RPN.{names[2]}: {of_image}, but "
            "under CONVENTIONS: modern the number after NMS is limited for all levels of an image "
            f"together; set MODEL.RPN.{names[2]} to the number you want"
        )
    return ProposalLimits(pre_nms=before, post_nms=of_image)


def _build_roi_heads(cfg: Config, strides: Sequence[int]) -> RoIHeads:
    heads = cfg.MODEL.ROI_HEADS
    num_classes = cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES
    if num_classes is None or num_classes < 2:
        raise ValueError(
            f"MODEL.ROI_BOX_HEAD.NUM_CLASSES: {num_classes}, but a model needs the number of "
            "classes with the background, for example 4 for three classes; `detengine train` takes "
            "it from the data set, in Python give it to load_config"
        )
    return RoIHeads(
        _box_branch(cfg, strides, num_classes),
        _mask_branch(cfg, strides, num_classes) if cfg.MODEL.MASK_ON else None,
        arithmetic=ContinuousBoxes(),
        box_weights=heads.BBOX_REG_WEIGHTS,
        matcher=Matcher(heads.FG_IOU_THRESHOLD, heads.BG_IOU_THRESHOLD),
        samples_per_image=heads.BATCH_SIZE_PER_IMAGE,
        positive_fraction=heads.POSITIVE_FRACTION,
        smooth_l1_beta=cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA,
        score_threshold=heads.SCORE_THRESH,
        nms_threshold=heads.NMS,
        detections_per_image=heads.DETECTIONS_PER_IMG,
    )


def _box_branch(cfg: Config, strides: Sequence[int], num_classes: int) -> Branch:
    head = cfg.MODEL.ROI_BOX_HEAD
    pooled_values = cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS * head.POOLER_RESOLUTION**2
    return Branch(
        _pooler("ROI_BOX_HEAD", head, strides),
        TwoMLPHead(pooled_values, head.MLP_HEAD_DIM),
        FastRCNNPredictor(head.MLP_HEAD_DIM, num_classes),
    )


def _mask_branch(cfg: Config, strides: Sequence[int], num_classes: int) -> Branch:
    head = cfg.MODEL.ROI_MASK_HEAD
    if not head.CONV_LAYERS or head.RESOLUTION != 2 * head.POOLER_RESOLUTION:
        raise ValueError(
            f"MODEL.ROI_MASK_HEAD: RESOLUTION {head.RESOLUTION} from POOLER_RESOLUTION "
            f"{head.POOLER_RESOLUTION} and CONV_LAYERS {list(head.CONV_LAYERS)}, but the head has "
            "at least one convolution and doubles what is pooled: set RESOLUTION to twice "
            "POOLER_RESOLUTION"
        )
    norm_layer = _norm_layer(cfg, "GN") if head.USE_GN else None
    width = cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS
    return Branch(
        _pooler("ROI_MASK_HEAD", head, strides),
        MaskRCNNHeads(width, tuple(head.CONV_LAYERS), head.DILATION, norm_layer),
        MaskRCNNPredictor(head.CONV_LAYERS[-1], head.CONV_LAYERS[-1], num_classes),
    )


def _pooler(section: str, head: Any, strides: Sequence[int]) -> Pooler:
    wanted = [round(1 / scale) for scale in head.POOLER_SCALES]
    if not wanted or not _is_run_of(strides, wanted):
        raise ValueError(
            f"MODEL.{section}.POOLER_SCALES: {list(head.POOLER_SCALES)} are strides of {wanted}, "
            f"but the pyramid has {list(strides)} (MODEL.RPN.ANCHOR_STRIDE); give 1 / stride of "
            "some of these, finest first, with no gap"
        )
    return Pooler(
        strides,
        wanted,
        head.POOLER_RESOLUTION,
        head.POOLER_SAMPLING_RATIO,
        arithmetic=ContinuousBoxes(),
        level_rule="torchvision",
    )

"""From the configuration to the region proposal network."""

from typing import Any

from torch import nn
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.rpn import RPNHead

from detengine.config.schema import Config
from detengine.modeling.build_anchors import build_anchor_generator
from detengine.modeling.build_arithmetic import make_arithmetic
from detengine.modeling.build_fbnet import build_fbnet_rpn_head
from detengine.modeling.matching import AnchorSampling
from detengine.modeling.rpn import ProposalLimits, RegionProposalNetwork


def build_rpn(cfg: Config, backbone: Any) -> RegionProposalNetwork:
    """Propose regions from the backbone's feature maps as MODEL.RPN says.

    backbone: with the `strides` of its feature maps, finest first, and their `out_channels`.
    Raises ValueError, naming the key, for strides that are not the backbone's; what contradicts
    itself in the configuration is refused when that is loaded.
    """
    rpn = cfg.MODEL.RPN
    _raise_if_strides_differ(cfg, tuple(backbone.strides))
    anchor_generator = build_anchor_generator(cfg)
    return RegionProposalNetwork(
        anchor_generator,
        _build_head(cfg, backbone.out_channels, anchor_generator.anchors_per_cell),
        arithmetic=make_arithmetic(cfg),
        sampling=_anchor_sampling(cfg),
        train_limits=_train_limits(cfg),
        test_limits=_test_limits(cfg),
        nms_threshold=rpn.NMS_THRESH,
        min_size=rpn.MIN_SIZE,
        smooth_l1_beta=rpn.SMOOTH_L1_BETA,
        style=cfg.MODEL.ARITHMETIC.ANCHORS,
        proposals_in_training=not cfg.MODEL.RPN_ONLY,
        static_shapes=cfg.MODEL.STATIC_SHAPES,
    )


def _raise_if_strides_differ(cfg: Config, of_backbone: tuple[int, ...]) -> None:
    given = tuple(cfg.MODEL.RPN.ANCHOR_STRIDE)
    if given != of_backbone:
        raise ValueError(
            f"MODEL.RPN.ANCHOR_STRIDE: {list(given)}, but the feature maps of "
            f"MODEL.BACKBONE.CONV_BODY {cfg.MODEL.BACKBONE.CONV_BODY} have the strides "
            f"{list(of_backbone)}; give these, or choose another body"
        )


def _build_head(cfg: Config, in_channels: int, anchors_per_cell: int) -> nn.Module:
    if cfg.MODEL.RPN.RPN_HEAD == "FBNet.rpn_head":
        return build_fbnet_rpn_head(cfg, in_channels, anchors_per_cell)
    head: nn.Module = RPNHead(in_channels, anchors_per_cell, cfg.MODEL.RPN.NUM_CONVS)
    return head


def _anchor_sampling(cfg: Config) -> AnchorSampling:
    rpn = cfg.MODEL.RPN
    matcher = Matcher(rpn.FG_IOU_THRESHOLD, rpn.BG_IOU_THRESHOLD, allow_low_quality_matches=True)
    return AnchorSampling(
        matcher, rpn.BATCH_SIZE_PER_IMAGE, rpn.POSITIVE_FRACTION, rpn.STRADDLE_THRESH
    )


def _train_limits(cfg: Config) -> ProposalLimits:
    rpn = cfg.MODEL.RPN
    of_levels = rpn.FPN_POST_NMS_TOP_N_TRAIN if rpn.USE_FPN else None
    return ProposalLimits(
        rpn.PRE_NMS_TOP_N_TRAIN,
        rpn.POST_NMS_TOP_N_TRAIN,
        of_image=None if rpn.FPN_POST_NMS_PER_BATCH else of_levels,
        of_batch=of_levels if rpn.FPN_POST_NMS_PER_BATCH else None,
    )


def _test_limits(cfg: Config) -> ProposalLimits:
    rpn = cfg.MODEL.RPN
    return ProposalLimits(
        rpn.PRE_NMS_TOP_N_TEST,
        rpn.POST_NMS_TOP_N_TEST,
        of_image=rpn.FPN_POST_NMS_TOP_N_TEST if rpn.USE_FPN else None,
        of_batch=None,
    )

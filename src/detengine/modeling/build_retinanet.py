"""RetinaNet from the configuration: MODEL.RETINANET, and what it shares with the other families."""

from typing import Any

from torch import nn
from torchvision.models.detection._utils import Matcher

from detengine.config.schema import Config
from detengine.modeling.build_anchors import build_anchor_generator
from detengine.modeling.build_arithmetic import make_arithmetic
from detengine.modeling.build_backbone import build_backbone
from detengine.modeling.build_preprocess import build_preprocess
from detengine.modeling.retinanet import RetinaNet, make_retinanet_head
from detengine.modeling.retinanet_detections import DetectionSelector
from detengine.modeling.retinanet_losses import RetinaNetLosses

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Factors of the regressed (dx, dy, dw, dh); the predecessor has no key for RetinaNet's."""


def build_retinanet(cfg: Config) -> nn.Module:
    """Build the whole detector; its labels are 1 to MODEL.RETINANET.NUM_CLASSES - 1.

    As in the predecessor, MODEL.RETINANET.STRADDLE_THRESH has no effect: the loss takes all
    anchors. Raises ValueError, naming the key, for what `build_backbone` does not build.
    """
    backbone: Any = build_backbone(cfg)
    anchor_generator = build_anchor_generator(cfg)
    retinanet = cfg.MODEL.RETINANET
    if retinanet.NUM_CLASSES is None:
        raise ValueError(
            "MODEL.RETINANET.NUM_CLASSES: None, but a model needs the number of classes with the "
            "background, for example 4 for three classes; `detengine train` takes it from the data "
            "set, in Python give it to load_config"
        )
    head = make_retinanet_head(
        backbone.out_channels,
        anchor_generator.anchors_per_cell,
        retinanet.NUM_CLASSES - 1,
        num_convs=retinanet.NUM_CONVS,
        prior=retinanet.PRIOR_PROB,
    )
    return RetinaNet(
        build_preprocess(cfg, backbone),
        backbone,
        anchor_generator,
        head,
        losses=_make_losses(cfg),
        selector=_make_selector(cfg),
    )


def _make_losses(cfg: Config) -> RetinaNetLosses:
    retinanet = cfg.MODEL.RETINANET
    return RetinaNetLosses(
        arithmetic=make_arithmetic(cfg),
        box_weights=BOX_WEIGHTS,
        matcher=Matcher(
            retinanet.FG_IOU_THRESHOLD, retinanet.BG_IOU_THRESHOLD, allow_low_quality_matches=True
        ),
        focal_alpha=retinanet.LOSS_ALPHA,
        focal_gamma=retinanet.LOSS_GAMMA,
        box_beta=retinanet.BBOX_REG_BETA,
        box_divisor=retinanet.BBOX_REG_WEIGHT,
    )


def _make_selector(cfg: Config) -> DetectionSelector:
    retinanet, arithmetic = cfg.MODEL.RETINANET, cfg.MODEL.ARITHMETIC
    return DetectionSelector(
        arithmetic=make_arithmetic(cfg),
        box_weights=BOX_WEIGHTS,
        score_threshold=retinanet.INFERENCE_TH,
        candidates_per_level=retinanet.PRE_NMS_TOP_N,
        nms_threshold=retinanet.NMS_TH,
        detections_per_image=cfg.TEST.DETECTIONS_PER_IMG,
        keep_ties=arithmetic.KEEP_TIES,
        min_size=arithmetic.MIN_DETECTION_SIZE,
    )

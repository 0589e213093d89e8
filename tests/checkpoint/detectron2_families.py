"""Pairs of small models of the same kind, ours and detectron2's, family by family."""

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from detengine.config.load import load_config
from detengine.modeling.build import build_detection_model

detectron2 = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).with_name("detectron2_models.py")))
)

CLASSES, WIDTH, STEM, RES2, FC = 3, 8, 8, 16, 12
SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHT", "", "MODEL.RESNETS.STEM_OUT_CHANNELS", STEM),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", RES2, "MODEL.RESNETS.WIDTH_PER_GROUP", 4),
    *("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", WIDTH, "MODEL.RESNETS.STRIDE_IN_1X1", True),
    *("MODEL.ROI_BOX_HEAD.NUM_CLASSES", CLASSES + 1, "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", FC),
    *("MODEL.ROI_BOX_HEAD.CONV_HEAD_DIM", WIDTH, "MODEL.RETINANET.NUM_CLASSES", CLASSES + 1),
    *("MODEL.ROI_MASK_HEAD.CONV_LAYERS", (WIDTH, WIDTH), "MODEL.RETINANET.NUM_CONVS", 2),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS", (WIDTH, WIDTH), "MODEL.GROUP_NORM.NUM_GROUPS", 2),
]
C4 = [
    *("MODEL.BACKBONE.CONV_BODY", "R-50-C4", "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 4 * RES2),
    *("MODEL.RPN.USE_FPN", False, "MODEL.RPN.ANCHOR_STRIDE", (16,), "MODEL.MASK_ON", True),
    *("MODEL.ROI_HEADS.USE_FPN", False, "MODEL.ROI_BOX_HEAD.POOLER_SCALES", (0.0625,)),
    *("MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "ResNet50Conv5ROIFeatureExtractor"),
    *("MODEL.ROI_BOX_HEAD.PREDICTOR", "FastRCNNPredictor"),
    *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 14, "MODEL.ROI_MASK_HEAD.RESOLUTION", 14),
    *("MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", True),
    *("MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR", "ResNet50Conv5ROIFeatureExtractor"),
    *("MODEL.ROI_MASK_HEAD.POOLER_SCALES", (0.0625,)),
    *("MODEL.ROI_MASK_HEAD.PREDICTOR", "MaskRCNNC4Predictor"),
]
GROUP_NORM = [
    *("MODEL.BACKBONE.NORM", "GN", "MODEL.FPN.USE_GN", True, "MODEL.MASK_ON", True),
    *("MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "FPNXconv1fcFeatureExtractor"),
    *("MODEL.ROI_BOX_HEAD.USE_GN", True, "MODEL.ROI_MASK_HEAD.USE_GN", True),
    *("MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.ROI_BOX_HEAD.NUM_STACKED_CONVS", 4),
]
RESNEXT = [
    *("MODEL.RESNETS.NUM_GROUPS", 2, "MODEL.RESNETS.WIDTH_PER_GROUP", 4),
    *("MODEL.RESNETS.STRIDE_IN_1X1", False),
]
RETINANET = [
    *("MODEL.RETINANET_ON", True, "MODEL.BACKBONE.CONV_BODY", "R-50-FPN-RETINANET"),
]
FAMILIES: dict[str, list[Any]] = {
    "faster": [],
    "mask": ["MODEL.MASK_ON", True],
    "keypoint": ["MODEL.KEYPOINT_ON", True],
    "rpn": ["MODEL.RPN_ONLY", True],
    "c4": C4,
    "group norm": GROUP_NORM,
    "resnext": RESNEXT,
    "retinanet": RETINANET,
    "agnostic": ["MODEL.CLS_AGNOSTIC_BBOX_REG", True],
    "epsilon of the predecessor": ["MODEL.ARITHMETIC.FROZEN_BN_EPSILON", 0.0],
}


def ours_of(family: str) -> nn.Module:
    cfg = load_config(None, ["CONVENTIONS", "modern", *SMALL, *FAMILIES[family]])
    return build_detection_model(cfg).eval()


def theirs_of(family: str) -> nn.Module:
    """detectron2's model of the same kind, with other weights in each tensor."""
    torch.manual_seed(0)
    norm = "GN" if family == "group norm" else "FrozenBN"
    head_norm = "GN" if family == "group norm" else ""
    groups = 2 if family == "resnext" else 1
    if family == "retinanet":
        body = detectron2.ResNet(STEM, RES2, 4, groups, norm)
        backbone: nn.Module = detectron2.FPN(body, WIDTH, (3, 4, 5), "", p6p7=True)
        return detectron2.randomise(
            detectron2.container(
                backbone=backbone, head=detectron2.RetinaNetHead(WIDTH, 2, 9, CLASSES)
            )
        )
    if family == "c4":
        backbone = detectron2.ResNet(STEM, RES2, 3, groups, norm)
        heads = detectron2.container(
            res5=detectron2.make_stage(4 * RES2, 8 * RES2, 3, groups, norm),
            box_predictor=detectron2.BoxPredictor(8 * RES2, CLASSES, CLASSES),
            mask_head=detectron2.MaskHead(8 * RES2, 0, WIDTH, CLASSES, ""),
        )
        rpn = detectron2.container(rpn_head=detectron2.RPNHead(4 * RES2, 15))
    else:
        body = detectron2.ResNet(STEM, RES2, 4, groups, norm)
        backbone = detectron2.FPN(body, WIDTH, (2, 3, 4, 5), head_norm, p6p7=False)
        convs, fcs = (4, 1) if family == "group norm" else (0, 2)
        parts: dict[str, nn.Module] = {
            "box_head": detectron2.BoxHead(WIDTH, convs, fcs, FC, head_norm),
            "box_predictor": detectron2.BoxPredictor(
                FC, CLASSES, 1 if family == "agnostic" else CLASSES
            ),
        }
        if family in ("mask", "group norm"):
            parts["mask_head"] = detectron2.MaskHead(WIDTH, 2, WIDTH, CLASSES, head_norm)
        if family == "keypoint":
            parts["keypoint_head"] = detectron2.KeypointHead(WIDTH, 2, WIDTH, 17)
        heads, rpn = (
            detectron2.container(**parts),
            detectron2.container(rpn_head=detectron2.RPNHead(WIDTH, 3)),
        )
    found = {"backbone": backbone, "proposal_generator": rpn, "roi_heads": heads}
    if family == "rpn":
        del found["roi_heads"]
    return detectron2.randomise(detectron2.container(**found))

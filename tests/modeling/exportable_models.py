"""Settings of small models of each kind, and random weights that detect something."""

import pytest
import torch
from torch import nn
from torch.torch_version import TorchVersion

from detengine.modeling.export_onnx import TORCH

needs_exporter = pytest.mark.skipif(
    TorchVersion(torch.__version__) < TORCH, reason=f"an export to ONNX needs torch {TORCH}"
)

SMALL = {
    "MODEL.BACKBONE.CONV_BODY": "R-18-FPN",
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": "0",
    "MODEL.BACKBONE.NORM": "GN",
    "MODEL.MASK_ON": "True",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": "16",
    "MODEL.RESNETS.RES2_OUT_CHANNELS": "64",
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": "48",
    "MODEL.RPN.ANCHOR_STRIDE": "[4, 8, 16]",
    "MODEL.RPN.ANCHOR_SIZES": "[16, 32, 64]",
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST": "100",
    "MODEL.ROI_BOX_HEAD.NUM_CLASSES": "4",
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": "64",
    "MODEL.ROI_BOX_HEAD.POOLER_SCALES": "[0.25, 0.125, 0.0625]",
    "MODEL.ROI_MASK_HEAD.POOLER_SCALES": "[0.25, 0.125, 0.0625]",
    "MODEL.ROI_MASK_HEAD.CONV_LAYERS": "[32]",
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_SCALES": "[0.25, 0.125, 0.0625]",
    "MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS": "[32]",
}
C4 = {
    "MODEL.BACKBONE.CONV_BODY": "R-18-C4",
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": "64",
    "MODEL.RPN.USE_FPN": "False",
    "MODEL.RPN.ANCHOR_STRIDE": "[16]",
    "MODEL.RPN.ANCHOR_SIZES": "[32, 64]",
    "MODEL.RPN.POST_NMS_TOP_N_TEST": "100",
    "MODEL.ROI_HEADS.USE_FPN": "False",
    "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR": "ResNet50Conv5ROIFeatureExtractor",
    "MODEL.ROI_BOX_HEAD.PREDICTOR": "FastRCNNPredictor",
    "MODEL.ROI_BOX_HEAD.POOLER_SCALES": "[0.0625]",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": "14",
    "MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR": "ResNet50Conv5ROIFeatureExtractor",
    "MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR": "True",
    "MODEL.ROI_MASK_HEAD.POOLER_SCALES": "[0.0625]",
    "MODEL.ROI_MASK_HEAD.RESOLUTION": "14",
}
RETINANET = {
    "MODEL.RETINANET_ON": "True",
    "MODEL.MASK_ON": "False",
    "MODEL.BACKBONE.CONV_BODY": "R-18-FPN-RETINANET",
    "MODEL.RETINANET.ANCHOR_STRIDES": "[8, 16, 32]",
    "MODEL.RETINANET.ANCHOR_SIZES": "[20, 40, 80]",
    "MODEL.RETINANET.NUM_CLASSES": "4",
    "MODEL.RETINANET.NUM_CONVS": "1",
    "MODEL.RETINANET.PRE_NMS_TOP_N": "200",
}
KEYPOINTS = {"MODEL.MASK_ON": "False", "MODEL.KEYPOINT_ON": "True"}
ARITHMETIC = "MODEL.ARITHMETIC"
PREDECESSOR = {
    f"{ARITHMETIC}.ANCHORS": "detectron",
    f"{ARITHMETIC}.INCLUSIVE_PIXELS": "True",
    f"{ARITHMETIC}.KEEP_TIES": "True",
    f"{ARITHMETIC}.ROI_LEVELS": "detectron",
    "INPUT.TO_BGR255": "True",
    "INPUT.PIXEL_MEAN": "[103, 116, 123]",
    "INPUT.PIXEL_STD": "[57, 57, 57]",
}


FACTORS = {
    "cls_score.weight": 50,
    "cls_logits.weight": 50,
    "bbox_pred.weight": 5,
    "mask_fcn_logits.weight": 10,
}


def speaking_up(model: nn.Module) -> nn.Module:
    """With random scores that are far apart, so that there is something to detect, and masks with
    an inside."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for ending, factor in FACTORS.items():
                if name.endswith(ending):
                    parameter.mul_(factor)
    return model.eval()

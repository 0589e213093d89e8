"""Detectors of torchvision's, for MODEL.BUILDER, small enough for a test."""

from typing import Any

from torch import nn
from torchvision.models import mobilenet_v3_small
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator


def mask_rcnn(cfg: Any) -> nn.Module:
    """With dropout in its body; 32 x 32 pixels and more."""
    body: Any = mobilenet_v3_small(weights=None).features[:4]
    body.append(nn.Dropout(0.1))
    body.out_channels = 24
    return MaskRCNN(
        body,
        cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES,
        min_size=64,
        max_size=128,
        rpn_anchor_generator=AnchorGenerator(((16, 32, 64),), ((0.5, 1.0, 2.0),)),
        rpn_pre_nms_top_n_train=100,
        rpn_post_nms_top_n_train=50,
        rpn_pre_nms_top_n_test=100,
        rpn_post_nms_top_n_test=20,
        box_batch_size_per_image=32,
        box_detections_per_img=10,
        box_score_thresh=0.0,
    )

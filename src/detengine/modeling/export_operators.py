"""The two steps of a detector that an exporter needs told: what it runs here, and what in ONNX.

Each is an operator of torch's, so that a graph names it instead of looking into it. In Python it
calls what the models call; `export_translations` says what takes its place in a file.
"""

import torch
from torch import Tensor
from torchvision.ops import nms

from detengine.modeling.keypoint_head import decode_heatmaps


@torch.library.custom_op("detengine::survivors_of_groups", mutates_args=())
def survivors_of_groups(
    boxes_xyxy: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float
) -> Tensor:
    """Which boxes score above a threshold and are suppressed by no better one: bool[G, C, K].

    boxes_xyxy: float32[G, K, 4], continuous, of G groups; scores: float32[G, C, K], of each group
    C times, each time by themselves. A box is suppressed where the IoU is above iou_threshold.
    """
    stays = torch.zeros_like(scores, dtype=torch.bool)
    for boxes, of_group, scores_of_group in zip(boxes_xyxy, stays, scores, strict=True):
        for of_class, scores_of_class in zip(of_group, scores_of_group, strict=True):
            good = torch.where(scores_of_class > score_threshold)[0]
            of_class[good[nms(boxes[good], scores_of_class[good], iou_threshold)]] = True
    return stays


@survivors_of_groups.register_fake
def _(boxes_xyxy: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


@torch.library.custom_op("detengine::points_of_heatmaps", mutates_args=())
def points_of_heatmaps(heatmaps: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """float32[N, J, 3]: the x, the y and the value that `decode_heatmaps` finds."""
    points, values = decode_heatmaps(heatmaps, boxes_xyxy)
    return torch.cat([points[:, :, :2], values[:, :, None]], dim=2)


@points_of_heatmaps.register_fake
def _(heatmaps: Tensor, boxes_xyxy: Tensor) -> Tensor:
    return heatmaps.new_empty(heatmaps.shape[0], heatmaps.shape[1], 3)

"""Non-maximum suppression of many groups at once, with as many answers as there were boxes."""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor
from torchvision.ops import nms


def survivors(boxes_xyxy: Tensor, threshold: float) -> Tensor:
    """Which boxes no better one of their group overlaps by more than `threshold`: bool[G, K].

    boxes_xyxy: float32[G, K, 4], continuous, each group best first. Those of torchvision's nms; on
    CUDA with triton nothing is read from the device.
    """
    if boxes_xyxy.device.type == "cuda" and _has_triton():
        from detengine.modeling.suppression_triton import survivors_on_device

        return survivors_on_device(boxes_xyxy, threshold)
    stays = torch.zeros(boxes_xyxy.shape[:2], dtype=torch.bool, device=boxes_xyxy.device)
    descending = torch.arange(boxes_xyxy.shape[1], 0, -1, device=boxes_xyxy.device).float()
    for group, of_group in zip(boxes_xyxy, stays, strict=True):
        of_group[nms(group, descending, threshold)] = True
    return stays


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None

"""The two ways to compute with boxes: continuous, as torchvision does, and inclusive of pixels.

An inclusive box (x1, y1, x2, y2) names the first and the last pixel that belong to it, so that it
is x2 - x1 + 1 wide: the arithmetic of Caffe2's Detectron and of maskrcnn-benchmark.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, box_area, clip_boxes_to_image, nms

Weights = Sequence[float]
"""Factors of the regressed (dx, dy, dw, dh)."""


class BoxArithmetic(Protocol):
    """What a detector computes with boxes. They are float[..., 4] as xyxy, in pixels."""

    def encode(self, truth: Tensor, boxes: Tensor, weights: Weights) -> Tensor:
        """The deltas that lead from each box to its truth: float[N, 4] of two float[N, 4]."""

    def decode(self, deltas: Tensor, boxes: Tensor, weights: Weights) -> Tensor:
        """The boxes that deltas lead to: float[N, K, 4] of float[N, 4 K] and float[N, 4]."""

    def clip(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Cut off what lies outside of the image. size: (height, width)."""

    def sides(self, boxes: Tensor) -> Tensor:
        """The width and the height: float[..., 2]."""

    def area(self, boxes: Tensor) -> Tensor:
        """float[...] of float[..., 4]."""

    def iou(self, boxes: Tensor, others: Tensor) -> Tensor:
        """The intersection over union of pairs: float[..., N, M] of [..., N, 4], [..., M, 4]."""

    def nms(self, boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
        """The boxes that no better one of their group suppresses: int64[K], best first.

        groups: int64[N], a level or a class. threshold: the IoU that suppresses.
        """


@dataclass(frozen=True)
class ContinuousBoxes:
    """torchvision's arithmetic, by torchvision's own functions; NMS suppresses above threshold."""

    def encode(self, truth: Tensor, boxes: Tensor, weights: Weights) -> Tensor:
        deltas: Tensor = BoxCoder(tuple(weights)).encode_single(truth, boxes)
        return deltas

    def decode(self, deltas: Tensor, boxes: Tensor, weights: Weights) -> Tensor:
        decoded: Tensor = BoxCoder(tuple(weights)).decode_single(deltas, boxes)
        return decoded.view(boxes.shape[0], deltas.shape[1] // 4, 4)

    def clip(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        clipped: Tensor = clip_boxes_to_image(boxes, size)
        return clipped

    def sides(self, boxes: Tensor) -> Tensor:
        return boxes[..., 2:] - boxes[..., :2]

    def area(self, boxes: Tensor) -> Tensor:
        areas: Tensor = box_area(boxes.flatten(0, -2))
        return areas.view(boxes.shape[:-1])

    def iou(self, boxes: Tensor, others: Tensor) -> Tensor:
        return pairwise_iou(boxes, others)

    def nms(self, boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
        kept: Tensor = batched_nms(boxes, scores, groups, threshold)
        return kept


@dataclass(frozen=True)
class InclusiveBoxes:
    """The predecessor's arithmetic: the same formulas, on boxes that reach over their last pixel.

    NMS suppresses at the threshold too, as the predecessor's does on a CPU (nms_cpu.cpp); a
    threshold of 0 suppresses nothing.
    """

    def encode(self, truth: Tensor, boxes: Tensor, weights: Weights) -> Tensor:
        return ContinuousBoxes().encode(opened_by_a_pixel(truth), opened_by_a_pixel(boxes), weights)

    def decode(self, deltas: Tensor, boxes: Tensor, weights: Weights) -> Tensor:
        decoded = ContinuousBoxes().decode(deltas, opened_by_a_pixel(boxes), weights)
        decoded[..., 2:] -= 1
        return decoded

    def clip(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        return ContinuousBoxes().clip(boxes, (size[0] - 1, size[1] - 1))

    def sides(self, boxes: Tensor) -> Tensor:
        return boxes[..., 2:] - boxes[..., :2] + 1

    def area(self, boxes: Tensor) -> Tensor:
        return self.sides(boxes).prod(dim=-1)

    def iou(self, boxes: Tensor, others: Tensor) -> Tensor:
        # Not the IoU of the opened boxes: x2 + 1 - x1 rounds otherwise than x2 - x1 + 1, and of
        # equally good anchors the matcher takes all.
        return _iou(boxes, others, self, pixel=1)

    def nms(self, boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
        if threshold <= 0 or len(boxes) == 0:
            return scores.argsort(descending=True)
        opened = opened_by_a_pixel(boxes.double())
        kept = torch.cat(
            [
                members[_suppress(opened[members], scores[members], threshold)]
                for members in (torch.where(groups == group)[0] for group in torch.unique(groups))
            ]
        )
        return kept[scores[kept].argsort(descending=True)]


def _suppress(opened: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """The boxes of one group that stay; of equally good ones, the first in torch's plain sort.

    That order, which is not the stable one, is the predecessor's (nms_cpu.cpp); where many scores
    are saturated at 1, another one keeps other boxes.
    """
    order = scores.argsort(descending=True)
    descending = torch.arange(len(order), 0, -1, dtype=opened.dtype, device=opened.device)
    kept: Tensor = nms(opened[order], descending, just_below(threshold))
    return order[kept]


def opened_by_a_pixel(boxes: Tensor) -> Tensor:
    """The continuous box of an inclusive one: up to the far edge of its last pixel."""
    return boxes + boxes.new_tensor([0, 0, 1, 1])


def just_below(threshold: float) -> float:
    """What the threshold, as a float32, is above of by the least: > of it is >= of that."""
    single = torch.tensor(threshold, dtype=torch.float32)
    return float(torch.nextafter(single, torch.tensor(-1.0)))


def pairwise_iou(boxes_xyxy: Tensor, others_xyxy: Tensor) -> Tensor:
    """float[..., N, M] of float[..., N, 4] and [..., M, 4]: torchvision's `box_iou`, to the bit."""
    return _iou(boxes_xyxy, others_xyxy, ContinuousBoxes(), pixel=0)


def _iou(boxes_xyxy: Tensor, others_xyxy: Tensor, arithmetic: BoxArithmetic, pixel: int) -> Tensor:
    """pixel: what is added to the sides of an intersection.

    x and y apart and in place, which takes a fifth of its time on 25 boxes and 9,000 anchors.
    """
    x1, y1, x2, y2 = boxes_xyxy[..., None, :].unbind(-1)
    others = others_xyxy.movedim(-1, 0).contiguous()
    other_x1, other_y1, other_x2, other_y2 = others[..., None, :]
    width = torch.minimum(x2, other_x2).sub_(torch.maximum(x1, other_x1))
    height = torch.minimum(y2, other_y2).sub_(torch.maximum(y1, other_y1))
    if pixel:
        width, height = width.add_(pixel), height.add_(pixel)
    intersection = width.clamp_(min=0).mul_(height.clamp_(min=0))
    areas, other_areas = arithmetic.area(boxes_xyxy), arithmetic.area(others_xyxy)
    union = (areas[..., None] + other_areas[..., None, :]).sub_(intersection)
    return intersection.div_(union)

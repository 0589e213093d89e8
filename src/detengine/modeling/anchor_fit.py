"""How well a data set's boxes are met by the anchors that a detector starts from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detengine.modeling.anchors import AnchorGenerator

_ROWS = 4096
"""Boxes that are compared with all anchors at a time."""


@dataclass(frozen=True)
class AnchorFit:
    """share_below: of the boxes, those whose best anchor overlaps them less than the threshold.

    share_below_half: the same for an IoU of 0.5. sides: the square roots of the boxes' areas in the
    network's input, at 5, 50 and 95 of a hundred, in pixels; ratios: of their heights to widths.
    """

    boxes: int
    share_below: float
    share_below_half: float
    sides: tuple[float, float, float]
    ratios: tuple[float, float, float]


def measure_fit(
    boxes_xyxy: Tensor, image_sizes: Tensor, generator: AnchorGenerator, threshold: float
) -> AnchorFit:
    """boxes_xyxy: float[N, 4], N at least 1, continuous, in pixels of the network's input.

    image_sizes: float[N, 2], (height, width) of each box's image there.
    """
    overlaps = best_overlaps(boxes_xyxy, image_sizes, generator)
    sides = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).double()
    return AnchorFit(
        len(boxes_xyxy),
        float((overlaps < threshold).double().mean()),
        float((overlaps < 0.5).double().mean()),
        _percentiles(sides.prod(dim=1).sqrt()),
        _percentiles(sides[:, 1] / sides[:, 0]),
    )


def best_overlaps(boxes_xyxy: Tensor, image_sizes: Tensor, generator: AnchorGenerator) -> Tensor:
    """float[N]: each box's IoU with that anchor, of all at all cells, which overlaps it most.

    Of one shape that is the anchor at the cell nearest to the box's centre, so that no other one is
    looked at. Anchors that reach out of the image count, too.
    """
    levels = [
        (generator.get_buffer(f"cell_anchors_{level}"), stride)
        for level, stride in enumerate(generator.strides)
    ]
    pixel = 1.0 if generator.style == "detectron" else 0.0
    parts = [
        torch.stack([_best_of_level(*part, cell, stride, pixel) for cell, stride in levels]).amax(0)
        for part in zip(
            torch.split(boxes_xyxy, _ROWS), torch.split(image_sizes, _ROWS), strict=True
        )
    ]
    return torch.cat(parts)


def _best_of_level(
    boxes_xyxy: Tensor, image_sizes: Tensor, cell: Tensor, stride: int, pixel: float
) -> Tensor:
    """float[N]. cell: float[A, 4], the first cell's anchors; pixel: what they are wider than
    x2 - x1."""
    first, extent = cell[:, :2], cell[:, 2:] - cell[:, :2] + pixel
    middle = first + extent / 2
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    centre = (boxes_xyxy[:, :2] + sides / 2)[:, None]
    last = (image_sizes.flip(1) / stride).ceil().clamp(min=1)[:, None] - 1
    place = torch.minimum(((centre - middle) / stride).round().clamp(min=0), last)
    away = centre - (middle + place * stride)
    half, own_half = extent / 2, (sides / 2)[:, None]
    common = torch.minimum(away + own_half, half) - torch.maximum(away - own_half, -half)
    intersection = common.clamp(min=0).prod(dim=-1)
    union = extent.prod(dim=-1) + sides.prod(dim=-1)[:, None] - intersection
    return (intersection / union).amax(dim=1)


def better_sizes(
    share_below: Callable[[Sequence[int]], float], sides: Tensor, number: int, factor: float
) -> tuple[list[int], float] | None:
    """Of a few choices of anchor sizes that with the smallest share of boxes below the threshold.

    share_below: what a choice gives. sides: float[N], the square roots of the boxes' areas. number:
    how many sizes; factor: what the largest anchor of a size is, relative to it. A choice is spaced
    evenly in logarithm between two of the sides' percentiles. None if there is none of distinct
    sizes.
    """
    tried = {}
    for outside in (0.02, 0.05, 0.1, 0.2):
        low, high = torch.quantile(sides, torch.tensor([outside, 1 - outside]).to(sides)).tolist()
        high = max(high / factor, low)
        steps = torch.logspace(0, 1, number, base=max(high / low, 1.0)).tolist()
        sizes = [max(1, round(low * step)) for step in steps]
        if len(set(sizes)) == number:
            tried[tuple(sizes)] = share_below(sizes)
    if not tried:
        return None
    best = min(tried, key=tried.__getitem__)
    return list(best), tried[best]


def _percentiles(values: Tensor) -> tuple[float, float, float]:
    low, middle, high = torch.quantile(
        values, torch.tensor([0.05, 0.5, 0.95], dtype=values.dtype)
    ).tolist()
    return low, middle, high

"""The best anchor of each box, against all anchors there are."""

import pytest
import torch
from torchvision.ops import box_iou

from detengine.modeling.anchor_fit import best_overlaps, better_sizes, measure_fit
from detengine.modeling.anchors import AnchorGenerator, AnchorStyle

SIZES, RATIOS, STRIDES = [(16,), (40,)], (0.5, 1.0, 2.0), (8, 16)
HEIGHT, WIDTH = 96, 128


def make_boxes(number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(number, 2, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT])
    low, high = corners.amin(dim=1), corners.amax(dim=1)
    return torch.cat([low, high + 1], dim=1)


@pytest.mark.parametrize("style", ["detectron", "torchvision", "detectron2"])
def test_no_other_anchor_overlaps_a_box_more(style: AnchorStyle) -> None:
    generator = AnchorGenerator(SIZES, RATIOS, STRIDES, style)
    features = [torch.empty(1, 1, HEIGHT // s, WIDTH // s) for s in STRIDES]
    anchors = torch.cat(generator(features, (HEIGHT, WIDTH)))
    if style == "detectron":  # they name their last pixel
        anchors = anchors + torch.tensor([0.0, 0.0, 1.0, 1.0])
    boxes = make_boxes(200)
    sizes = torch.tensor([[HEIGHT, WIDTH]]).expand(200, 2).float()
    torch.testing.assert_close(
        best_overlaps(boxes, sizes, generator), box_iou(boxes, anchors).amax(dim=1)
    )


def test_the_fit_counts_boxes_that_no_anchor_meets() -> None:
    generator = AnchorGenerator(SIZES, RATIOS, STRIDES, "torchvision")
    tiny = torch.tensor([[10.0, 10, 12, 12]])
    exact = torch.tensor([[-8.0, -8, 8, 8]]) + 32
    sizes = torch.tensor([[HEIGHT, WIDTH]] * 2).float()
    fit = measure_fit(torch.cat([tiny, exact]), sizes, generator, 0.7)
    assert (fit.boxes, fit.share_below, fit.share_below_half) == (2, 0.5, 0.5)
    assert fit.sides[0] == pytest.approx(2 + 0.05 * 14)


def test_better_sizes_span_the_boxes() -> None:
    sides = torch.linspace(20, 80, 100)
    found = better_sizes(lambda sizes: abs(sizes[0] - 23) / 100, sides, 3, 1.0)
    assert found is not None
    sizes, share = found
    assert (sizes, share) == ([23, 40, 77], 0.0) or sizes[0] in (21, 22, 23)
    assert sizes == sorted(sizes)
    assert better_sizes(lambda sizes: 0.0, torch.full((9,), 30.0), 3, 1.0) is None

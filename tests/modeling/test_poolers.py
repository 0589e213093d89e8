from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align

from detengine.modeling.boxes import ContinuousBoxes, InclusiveBoxes
from detengine.modeling.poolers import Pooler, to_rois

OPS = Path(__file__).parents[2] / "../shared/golden/small/ops.npz"
needs_recording = pytest.mark.skipif(not OPS.exists(), reason="../shared is absent")
STRIDES = (4, 8, 16, 32)
MODERN = {"arithmetic": ContinuousBoxes(), "level_rule": "torchvision"}
PREDECESSORS = {"arithmetic": InclusiveBoxes(), "level_rule": "detectron"}


def recorded() -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(OPS).items()}


def levels_of(boxes: torch.Tensor, rule: dict) -> list[int]:
    """The level of each box within 1,000 pixels, from features that are everywhere their level."""
    features = [torch.full((1, 1, 1024 // s, 1024 // s), float(i)) for i, s in enumerate(STRIDES)]
    pooled = Pooler(STRIDES, STRIDES, 1, 1, **rule)(features, to_rois([boxes]))
    return pooled[:, 0, 0, 0].long().tolist()


@needs_recording
def test_boxes_go_to_the_levels_of_the_predecessor():
    ops = recorded()
    assert levels_of(ops["nms_boxes"], PREDECESSORS) == ops["levels_k2_5"].tolist()
    assert levels_of(ops["level_edge_boxes"], PREDECESSORS) == ops["level_edge"].tolist()


@needs_recording
def test_it_pools_as_the_predecessors_pooler():
    ops = recorded()
    features = [ops[f"pooler_feat{level}"] for level in range(4)]
    rois = to_rois([ops["pooler_boxes0"], ops["pooler_boxes1"]])
    pooled = Pooler(STRIDES, STRIDES, 7, 2, **PREDECESSORS)(features, rois)
    assert torch.equal(pooled, ops["pooler_out"])


@needs_recording
@pytest.mark.parametrize("sampling", [0, 2])
@pytest.mark.parametrize("size", [(7, 7), (14, 14), (3, 5)])
def test_torchvisions_roi_align_is_the_predecessors(sampling, size):
    ops = recorded()
    expected = ops[f"roi_align_s{sampling}_{size[0]}x{size[1]}"]
    rois = ops["rois"][: len(expected)]
    pooled = roi_align(ops["roi_feat"], rois, size, 0.125, sampling)
    assert torch.equal(pooled, expected)


def test_the_rules_of_levels_differ_where_a_side_is_just_below_a_power_of_two():
    continuous = torch.tensor([[0, 0, 111.99, 111.99], [0, 0, 111.9999, 111.9999]])
    inclusive = continuous - torch.tensor([0, 0, 1, 1])
    assert levels_of(continuous, MODERN) == [0, 0]
    assert levels_of(inclusive, PREDECESSORS) == [0, 1]


@pytest.mark.parametrize("rule", [MODERN, PREDECESSORS])
def test_one_level_takes_all_rois_in_their_order(rule):
    features = [torch.rand(2, 3, 64, 64)]
    rois = to_rois([random_boxes(20, 900), random_boxes(5, 60)])
    pooled = Pooler((16,), (16,), 7, 2, **rule)(features, rois)
    assert torch.equal(pooled, roi_align(features[0], rois, 7, 1 / 16, 2))


def random_boxes(count: int, side: int) -> torch.Tensor:
    corner = torch.rand(count, 2) * side * 0.6
    return torch.cat([corner, corner + 1 + torch.rand(count, 2) * side * 0.4], dim=1)


def test_it_pools_as_torchvisions_multi_scale_roi_align():
    torch.manual_seed(0)
    features = [
        torch.rand(2, 5, 1024 // stride, 1024 // stride, requires_grad=True) for stride in STRIDES
    ]
    boxes = [random_boxes(40, 1024), random_boxes(3, 200)]
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    named = {str(level): feature for level, feature in enumerate(features)}
    expected = theirs(named, boxes, [(1024, 1024)] * 2)
    pooled = Pooler((*STRIDES, 64), STRIDES, 7, 2, **MODERN)(features, to_rois(boxes))
    assert torch.equal(pooled, expected)
    weights = torch.rand_like(pooled)
    gradients = torch.autograd.grad((pooled * weights).sum(), features)
    for ours, their in zip(
        gradients, torch.autograd.grad((expected * weights).sum(), features), strict=True
    ):
        torch.testing.assert_close(ours, their)


@pytest.mark.parametrize(("aligned", "middle"), [(True, 0.5), (False, 0.0)])
def test_a_feature_stands_in_the_middle_of_its_pixel_where_it_is_aligned(aligned, middle):
    """On a ramp, bilinear sampling gives the place of each bin's centre, counted in pixels."""
    levels = [torch.arange(1024.0 // s).expand(1, 1, 1024 // s, 1024 // s) for s in STRIDES]
    boxes = torch.tensor([[100.0, 80, 163, 143], [41.0, 70, 365, 391]])  # strides 4 and 16
    pooled = Pooler(STRIDES, STRIDES, 7, 2, **MODERN, aligned=aligned)(levels, to_rois([boxes]))
    for of_box, (left, _, right, _), stride in zip(pooled, boxes, (4, 16), strict=True):
        centres = (left + (right - left) * (torch.arange(7) + 0.5) / 7) / stride - middle
        torch.testing.assert_close(of_box[0], centres.expand(7, 7), rtol=0, atol=1e-4)


def test_only_the_given_levels_are_used():
    features = [torch.full((1, 1, 64 // stride, 64 // stride), float(stride)) for stride in STRIDES]
    rois = torch.tensor([[0.0, 0, 0, 8, 8], [0.0, 0, 0, 60, 60]])
    pooled = Pooler(STRIDES, (8, 16), 2, 2, **MODERN)(features, rois)
    assert (pooled == 8).all()


def test_boxes_without_area_and_no_boxes_at_all_are_pooled():
    features = [torch.rand(1, 2, 16, 16), torch.rand(1, 2, 8, 8)]
    pooler = Pooler((4, 8), (4, 8), 7, 2, **MODERN)
    assert pooler(features, torch.tensor([[0.0, 5, 5, 5, 5]])).shape == (1, 2, 7, 7)
    assert pooler(features, torch.empty(0, 5)).shape == (0, 2, 7, 7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("under_autocast", [True, False])
def test_features_of_half_precision_are_pooled_at_the_exact_places(dtype, under_autocast):
    torch.manual_seed(0)
    ramp = torch.arange(256.0).expand(1, 1, 256, 256)  # every feature is its column
    boxes = random_boxes(30, 1000)
    pooler = Pooler((4,), (4,), 7, 2, **MODERN)
    exact = pooler([ramp], to_rois([boxes]))
    with torch.autocast("cpu", dtype, enabled=under_autocast):
        pooled = pooler([ramp.to(dtype)], to_rois([boxes]))
    assert pooled.dtype == dtype
    assert torch.equal(pooled, exact.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_a_gradient_the_same_is_pooled(dtype):
    torch.manual_seed(0)
    features = [torch.rand(2, 3, 1024 // s, 1024 // s).to(dtype) for s in STRIDES]
    rois = to_rois([random_boxes(20, 1000), random_boxes(20, 1000)])
    pooler = Pooler(STRIDES, STRIDES, 7, 2, **MODERN)
    with torch.no_grad():
        alone = pooler(features, rois)
    with_gradient = pooler([each.requires_grad_() for each in features], rois)
    assert alone.dtype == dtype
    assert torch.equal(alone, with_gradient)
    assert with_gradient.requires_grad

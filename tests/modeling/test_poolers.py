import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

from detengine.modeling.poolers import Pooler, to_rois

STRIDES = (4, 8, 16, 32)


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
    pooled = Pooler((*STRIDES, 64), STRIDES, 7, 2)(features, to_rois(boxes))
    assert torch.equal(pooled, expected)
    weights = torch.rand_like(pooled)
    gradients = torch.autograd.grad((pooled * weights).sum(), features)
    for ours, their in zip(
        gradients, torch.autograd.grad((expected * weights).sum(), features), strict=True
    ):
        torch.testing.assert_close(ours, their)


def test_only_the_given_levels_are_used():
    features = [torch.full((1, 1, 64 // stride, 64 // stride), float(stride)) for stride in STRIDES]
    rois = torch.tensor([[0.0, 0, 0, 8, 8], [0.0, 0, 0, 60, 60]])
    pooled = Pooler(STRIDES, (8, 16), 2, 2)(features, rois)
    assert (pooled == 8).all()


def test_boxes_without_area_and_no_boxes_at_all_are_pooled():
    features = [torch.rand(1, 2, 16, 16), torch.rand(1, 2, 8, 8)]
    pooler = Pooler((4, 8), (4, 8), 7, 2)
    assert pooler(features, torch.tensor([[0.0, 5, 5, 5, 5]])).shape == (1, 2, 7, 7)
    assert pooler(features, torch.empty(0, 5)).shape == (0, 2, 7, 7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("under_autocast", [True, False])
def test_features_of_half_precision_are_pooled_at_the_exact_places(dtype, under_autocast):
    torch.manual_seed(0)
    ramp = torch.arange(256.0).expand(1, 1, 256, 256)  # every feature is its column
    boxes = random_boxes(30, 1000)
    pooler = Pooler((4,), (4,), 7, 2)
    exact = pooler([ramp], to_rois([boxes]))
    with torch.autocast("cpu", dtype, enabled=under_autocast):
        pooled = pooler([ramp.to(dtype)], to_rois([boxes]))
    assert pooled.dtype == dtype
    assert torch.equal(pooled, exact.to(dtype))

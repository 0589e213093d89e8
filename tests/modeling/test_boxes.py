"""Both box arithmetics: against the predecessor's recordings, torchvision, and each other."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection._utils import Matcher
from torchvision.ops import batched_nms

from detengine.modeling.boxes import ContinuousBoxes, InclusiveBoxes

SMALL = Path(__file__).parents[2] / "../shared/golden/small"
needs_recording = pytest.mark.skipif(not SMALL.exists(), reason="../shared is absent")
IMAGE_SIZE = (200, 300)


def recorded(name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(SMALL / name).items()}


def one_group(boxes: Tensor) -> Tensor:
    return torch.zeros(len(boxes), dtype=torch.int64)


def random_boxes(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 200
    return torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 90], dim=1)


@needs_recording
@pytest.mark.parametrize(("name", "weights"), [("w1", (1, 1, 1, 1)), ("w10", (10, 10, 5, 5))])
def test_inclusive_boxes_are_encoded_and_decoded_as_by_the_predecessor(name, weights):
    box = recorded("box_coder.npz")
    inclusive = InclusiveBoxes()
    encoded = inclusive.encode(box["reference_boxes"], box["proposals"], weights)
    assert torch.equal(encoded, box[f"{name}_encode"])
    decoded = inclusive.decode(box["codes"], box["proposals"], weights)
    assert torch.equal(decoded, box[f"{name}_decode"].view(-1, 1, 4))
    decoded = inclusive.decode(box["codes_5class"], box["proposals"], weights)
    assert torch.equal(decoded, box[f"{name}_decode_5class"].view(-1, 5, 4))


@needs_recording
def test_sides_areas_overlaps_and_clipping_of_inclusive_boxes_are_the_predecessors():
    ops, matcher = recorded("ops.npz"), recorded("matcher.npz")
    inclusive, boxes = InclusiveBoxes(), ops["nms_boxes"]
    assert torch.equal(inclusive.sides(boxes), ops["xywh"][:, 2:])
    assert torch.equal(inclusive.area(boxes), ops["area"])
    assert torch.equal(inclusive.iou(boxes[:30], boxes[30:70]), ops["iou_30x40"])
    assert torch.equal(inclusive.iou(matcher["gt"], matcher["proposals"]), matcher["iou"])
    assert torch.equal(inclusive.clip(ops["clip_in"], IMAGE_SIZE), ops["clip_keep_all"])
    large = (inclusive.sides(boxes) >= 16).all(dim=1)
    assert torch.equal(boxes[large], ops["remove_small_16"])


@needs_recording
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_nms_of_inclusive_boxes_keeps_what_the_predecessors_keeps(threshold):
    ops = recorded("ops.npz")
    boxes, scores = ops["nms_boxes"], ops["nms_scores"]
    kept = InclusiveBoxes().nms(boxes, scores, one_group(boxes), threshold)
    assert torch.equal(kept.sort().values, ops[f"nms_keep_{threshold}"])


@needs_recording
def test_nms_of_whole_pixels_suppresses_at_the_threshold_as_the_predecessors_does():
    ops = recorded("ops.npz")
    boxes, scores = ops["nms_int_boxes"], ops["nms_scores"]
    kept = InclusiveBoxes().nms(boxes, scores, one_group(boxes), 0.5)
    assert torch.equal(kept.sort().values, ops["nms_int_keep_0.5"])


@needs_recording
@pytest.mark.parametrize(
    ("high", "low", "lq"), [(0.7, 0.3, 1), (0.5, 0.5, 0), (0.5, 0.4, 1), (0.5, 0.4, 0)]
)
@pytest.mark.parametrize("quantised", [False, True])
def test_torchvisions_matcher_matches_as_the_predecessors(high, low, lq, quantised):
    matcher = recorded("matcher.npz")
    iou = matcher["iou_quantised" if quantised else "iou"]
    matched = Matcher(high, low, allow_low_quality_matches=bool(lq))(iou.clone())
    name = f"matches_{'quantised_' if quantised else ''}hi{high}_lo{low}_lq{lq}"
    assert torch.equal(matched, matcher[name])


@needs_recording
@pytest.mark.parametrize(("name", "beta"), [("beta9", 1 / 9), ("beta1", 1.0), ("beta011", 0.11)])
def test_torchs_smooth_l1_is_the_predecessors(name, beta):
    ops = recorded("ops.npz")
    loss = F.smooth_l1_loss(ops["sl1_x"], ops["sl1_t"], beta=beta, reduction="sum")
    torch.testing.assert_close(loss, ops[f"sl1_{name}_sum"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("arithmetic", [ContinuousBoxes(), InclusiveBoxes()])
def test_decoding_what_was_encoded_gives_the_truth(arithmetic):
    truth, boxes = random_boxes(50, seed=1), random_boxes(50, seed=2) + torch.tensor([0, 0, 9, 9])
    deltas = arithmetic.encode(truth, boxes, (10, 10, 5, 5))
    decoded = arithmetic.decode(deltas, boxes, (10, 10, 5, 5))
    torch.testing.assert_close(decoded[:, 0], truth, rtol=0, atol=1e-3)


def test_inclusive_boxes_one_pixel_further_are_continuous_boxes():
    boxes, others, far = random_boxes(30), random_boxes(20, seed=1), torch.tensor([0, 0, 1, 1])
    inclusive, continuous = InclusiveBoxes(), ContinuousBoxes()
    same = torch.testing.assert_close
    same(inclusive.sides(boxes), continuous.sides(boxes + far))
    same(inclusive.area(boxes), continuous.area(boxes + far))
    same(inclusive.iou(boxes, others), continuous.iou(boxes + far, others + far))


def test_clipping_leaves_the_first_and_the_last_pixel_of_the_image():
    box = torch.tensor([-5.0, -5, 500, 500])
    assert InclusiveBoxes().clip(box, (90, 120)).tolist() == [0, 0, 119, 89]
    assert ContinuousBoxes().clip(box, (90, 120)).tolist() == [0, 0, 120, 90]


@pytest.mark.parametrize("count", [60, 3000])  # batched_nms has a way of its own for each
def test_nms_of_groups_is_nms_of_each_group(count):
    boxes, scores = random_boxes(count), torch.rand(count)
    groups = torch.arange(count) % 3
    for arithmetic in (InclusiveBoxes(), ContinuousBoxes()):
        together = arithmetic.nms(boxes, scores, groups, 0.3)
        assert (scores[together].diff() <= 0).all()
        alone = []
        for group in range(3):
            (members,) = torch.where(groups == group)
            kept = arithmetic.nms(boxes[members], scores[members], one_group(members), 0.3)
            alone.append(members[kept])
        assert together.sort().values.tolist() == torch.cat(alone).sort().values.tolist()


def test_groups_stay_apart_where_boxes_reach_over_the_images_edge():
    box = torch.tensor([[-500.0, -500, -100, -100], [-99.0, -99, 0, 0]])
    boxes = box[[0, 1, 0, 1]]
    kept = InclusiveBoxes().nms(boxes, torch.rand(4), torch.tensor([0, 0, 1, 1]), 0.5)
    assert len(kept) == 4


def test_nms_at_zero_keeps_all_and_takes_no_boxes_too():
    boxes = torch.zeros(3, 4)
    kept = InclusiveBoxes().nms(boxes, torch.tensor([0.1, 0.9, 0.5]), one_group(boxes), 0.0)
    assert kept.tolist() == [1, 2, 0]
    assert InclusiveBoxes().nms(torch.empty(0, 4), torch.empty(0), torch.empty(0), 0.5).shape == (
        0,
    )


def test_continuous_nms_is_torchvisions():
    boxes, scores, groups = random_boxes(500), torch.rand(500), torch.arange(500) % 4
    kept = ContinuousBoxes().nms(boxes, scores, groups, 0.5)
    assert torch.equal(kept, batched_nms(boxes, scores, groups, 0.5))

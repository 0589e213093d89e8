"""Proposals limit by limit, and which anchors are trained on."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.rpn import RPNHead

from detengine.modeling.anchors import AnchorGenerator, lies_inside
from detengine.modeling.boxes import ContinuousBoxes, InclusiveBoxes
from detengine.modeling.matching import AnchorSampling
from detengine.modeling.rpn import ProposalLimits, Proposals, RegionProposalNetwork

SIZES = ((32,), (64,), (128,))
STRIDES = (8, 16, 32)
PADDED = (128, 160)
IMAGE_SIZES = [(128, 150), (100, 160)]


@pytest.fixture
def features() -> list[Tensor]:
    """Of two images, three levels."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 8, PADDED[0] // stride, PADDED[1] // stride, generator=generator)
        for stride in STRIDES
    ]


@pytest.fixture
def targets() -> list[dict[str, Tensor]]:
    first = torch.tensor([[20.0, 30, 60, 70], [90.0, 20, 149, 90]])
    return [{"boxes": first}, {"boxes": torch.tensor([[0.0, 0, 90, 99]])}]


def make_rpn(style: str = "detectron", **changes: Any) -> RegionProposalNetwork:
    """Three levels, random weights with scores spread out, and few limits."""
    torch.manual_seed(0)
    head = RPNHead(8, 3)
    with torch.no_grad():
        head.cls_logits.weight.mul_(300)
        head.bbox_pred.weight.mul_(20)
    unlimited = ProposalLimits(1000, 1000, of_image=None, of_batch=None)
    matcher = Matcher(0.5, 0.3, allow_low_quality_matches=True)
    settings: dict[str, Any] = {
        "arithmetic": InclusiveBoxes() if style == "detectron" else ContinuousBoxes(),
        "sampling": AnchorSampling(matcher, 64, 0.5, -1),
        "train_limits": unlimited,
        "test_limits": unlimited,
        "nms_threshold": 0.7,
        "min_size": 0.0,
        "smooth_l1_beta": 1 / 9,
        "style": style,
        "proposals_in_training": True,
    }
    generator = AnchorGenerator(SIZES, (0.5, 1.0, 2.0), STRIDES, style)
    return RegionProposalNetwork(generator, head, **settings | changes)


def propose(rpn: RegionProposalNetwork, features: list[Tensor]) -> list[Proposals]:
    proposals, _ = rpn(features, PADDED, IMAGE_SIZES, None)
    return proposals


def propose_by_level(features: list[Tensor], image: int) -> list[Proposals]:
    """The predecessor's unlimited proposals of one image, each level's by itself."""
    alone = []
    for level in range(len(STRIDES)):
        others = [torch.full_like(f, -1e4) if i != level else f for i, f in enumerate(features)]
        rpn = make_rpn()
        generator = AnchorGenerator([SIZES[level]], (0.5, 1.0, 2.0), [STRIDES[level]], "detectron")
        rpn.anchor_generator = generator
        alone.append(propose(rpn, [others[level]])[image])
    return alone


def rows(boxes: Tensor) -> set[tuple[float, ...]]:
    return {tuple(box) for box in boxes.tolist()}


def test_the_predecessors_proposals_stand_level_by_level_each_best_first(features):
    whole = propose(make_rpn(), features)
    for image in range(2):
        alone = propose_by_level(features, image)
        assert torch.equal(whole[image].boxes, torch.cat([level.boxes for level in alone]))
        assert torch.equal(whole[image].scores, torch.cat([level.scores for level in alone]))
        assert all((level.scores.diff() <= 0).all() for level in alone)


def test_torchvisions_proposals_stand_best_first_over_all_levels(features):
    for image in propose(make_rpn("torchvision"), features):
        assert len(image.scores) > 100
        assert (image.scores.diff() <= 0).all()


@pytest.mark.parametrize("style", ["detectron", "torchvision"])
def test_after_nms_each_level_keeps_its_best(features, style):
    limits = ProposalLimits(1000, 20, of_image=None, of_batch=None)
    for image, cut in enumerate(propose(make_rpn(style, train_limits=limits), features)):
        if style == "detectron":
            best = [level.boxes[:20] for level in propose_by_level(features, image)]
            assert torch.equal(cut.boxes, torch.cat(best))
        assert len(cut.boxes) == 20 * len(STRIDES)


def test_where_nms_is_off_the_predecessor_keeps_all_that_it_would_have_seen(features):
    limits = ProposalLimits(100, 20, of_image=None, of_batch=None)
    rpn = make_rpn(train_limits=limits, nms_threshold=0.0)
    for image in propose(rpn, features):
        assert len(image.boxes) == 100 + 100 + min(100, 4 * 5 * 3)


@pytest.mark.parametrize("style", ["detectron", "torchvision"])
def test_of_an_image_the_best_of_all_levels_stay_best_first(features, style):
    whole = propose(make_rpn(style), features)
    limits = ProposalLimits(1000, 1000, of_image=50, of_batch=None)
    for all_of_image, cut in zip(
        whole, propose(make_rpn(style, train_limits=limits), features), strict=True
    ):
        best = all_of_image.scores.sort(descending=True, stable=True).indices[:50]
        assert torch.equal(cut.scores, all_of_image.scores[best])
        assert rows(cut.boxes) == rows(all_of_image.boxes[best])


def test_of_a_batch_the_best_of_all_images_stay_in_their_order(features):
    features[0][1] += 0.3  # the second image scores higher or lower, at any rate otherwise
    whole = propose(make_rpn(), features)
    limits = ProposalLimits(1000, 1000, of_image=None, of_batch=120)
    cut = propose(make_rpn(train_limits=limits), features)
    lowest = torch.cat([image.scores for image in whole]).sort(descending=True).values[119]
    assert sum(len(image.scores) for image in cut) == 120
    assert len(cut[0].scores) != len(cut[1].scores)
    for image, all_of_image in zip(cut, whole, strict=True):
        stays = all_of_image.scores >= lowest
        assert torch.equal(image.boxes, all_of_image.boxes[stays])
        assert torch.equal(image.scores, all_of_image.scores[stays])


def test_limits_that_reach_no_proposal_change_nothing(features):
    whole = propose(make_rpn(), features)
    limits = ProposalLimits(100_000, 99_999, of_image=None, of_batch=99_999)
    for one, other in zip(whole, propose(make_rpn(train_limits=limits), features), strict=True):
        assert torch.equal(one.boxes, other.boxes)


def test_training_and_evaluation_have_limits_of_their_own(features):
    rpn = make_rpn(test_limits=ProposalLimits(1000, 1000, of_image=7, of_batch=None))
    assert len(propose(rpn, features)[0].boxes) > 7
    assert [len(image.boxes) for image in propose(rpn.eval(), features)] == [7, 7]


def test_small_proposals_are_left_out_by_the_arithmetics_sides(features):
    for style in ("detectron", "torchvision"):
        rpn = make_rpn(style, min_size=24.0)
        sides = [rpn.arithmetic.sides(image.boxes).amin() for image in propose(rpn, features)]
        assert min(sides) >= 24
        assert len(propose(rpn, features)[0].boxes) < len(
            propose(make_rpn(style), features)[0].boxes
        )


def test_nothing_is_proposed_where_everything_is_too_small(features):
    limits = ProposalLimits(1000, 10, of_image=None, of_batch=5)
    for image in propose(make_rpn(min_size=1e4, train_limits=limits), features):
        assert image.boxes.shape == (0, 4)
        assert image.scores.shape == (0,)


def test_a_network_of_proposals_alone_makes_none_in_training(features, targets):
    rpn = make_rpn(proposals_in_training=False)
    proposals, losses = rpn(features, PADDED, IMAGE_SIZES, targets)
    assert proposals == []
    _, expected = make_rpn()(features, PADDED, IMAGE_SIZES, targets)
    torch.manual_seed(1)
    assert set(losses) == set(expected)
    assert len(propose(rpn.eval(), features)) == 2


@pytest.mark.parametrize("style", ["detectron", "torchvision"])
@pytest.mark.parametrize("straddle", [0, 10])
def test_anchors_that_straddle_the_edge_are_not_trained_on(features, targets, style, straddle):
    matcher = Matcher(0.5, 0.3, allow_low_quality_matches=True)
    rpn = make_rpn(style, sampling=AnchorSampling(matcher, 100_000, 0.5, straddle))
    logit_maps, delta_maps = rpn.head(features)
    for each in logit_maps + delta_maps:
        each.retain_grad()
    rpn.head.forward = lambda _: (logit_maps, delta_maps)
    _, losses = rpn(features, PADDED, IMAGE_SIZES, targets)
    sum(losses.values()).backward()
    anchors = rpn.anchor_generator(features, PADDED)
    for logits, deltas, level_anchors in zip(logit_maps, delta_maps, anchors, strict=True):
        for image, size in enumerate(IMAGE_SIZES):
            inside = lies_inside(level_anchors, size, straddle)
            gradient = logits.grad[image].permute(1, 2, 0).flatten()
            assert (gradient[~inside] == 0).all()
            of_deltas = deltas.grad[image].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).flatten(0, 2)
            assert (of_deltas[~inside] == 0).all()
    inside = lies_inside(torch.cat(anchors), IMAGE_SIZES[0], straddle)
    assert 0 < inside.sum() < len(inside)


def test_an_image_without_objects_trains_on_background_alone(features):
    losses = make_rpn()(features, PADDED, IMAGE_SIZES, [{"boxes": torch.empty(0, 4)}] * 2)[1]
    assert losses["loss_objectness"] > 0
    assert losses["loss_rpn_box_reg"] == 0

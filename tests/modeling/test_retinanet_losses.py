"""RetinaNet's losses: the predecessor's focal loss, and what each anchor counts as."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher

from detengine.modeling.boxes import BoxArithmetic, ContinuousBoxes, InclusiveBoxes
from detengine.modeling.retinanet_losses import BACKGROUND, IGNORED, RetinaNetLosses, focal_loss
from detengine.structures.target import Target

OPERATORS = Path(__file__).parents[2] / "../shared/golden/small/ops.npz"
ARITHMETICS = [ContinuousBoxes(), InclusiveBoxes()]


def make_losses(arithmetic: BoxArithmetic) -> RetinaNetLosses:
    return RetinaNetLosses(
        arithmetic=arithmetic,
        box_weights=(10, 10, 5, 5),
        matcher=Matcher(0.5, 0.4, allow_low_quality_matches=True),
        focal_alpha=0.25,
        focal_gamma=2,
        box_beta=0.11,
        box_divisor=4,
    )


def make_target(boxes: list[list[float]], labels: list[int]) -> Target:
    return {"boxes": torch.tensor(boxes).view(-1, 4), "labels": torch.tensor(labels).long()}


@pytest.mark.skipif(not OPERATORS.exists(), reason="../shared is absent")
def test_focal_loss_is_that_of_the_predecessor() -> None:
    recorded = np.load(OPERATORS)
    logits = torch.from_numpy(recorded["focal_logits"])
    labels = torch.from_numpy(recorded["focal_targets"]).long()
    assert {IGNORED, BACKGROUND, 1} <= set(labels.tolist())
    ours = focal_loss(logits, labels, alpha=0.25, gamma=2)
    torch.testing.assert_close(ours, torch.tensor(float(recorded["focal_sum"])), rtol=1e-5, atol=0)
    each = torch.stack([focal_loss(*row, 0.25, 2) for row in zip(logits, labels, strict=True)])
    of_rows = torch.from_numpy(recorded["focal_elementwise"]).sum(dim=1)
    torch.testing.assert_close(each, of_rows, rtol=1e-5, atol=1e-6)


def test_an_ignored_anchor_has_neither_loss_nor_gradient() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([[IGNORED, 0, 2], [5, IGNORED, IGNORED]])
    loss = focal_loss(logits, labels, 0.25, 2)
    loss.backward()
    assert torch.equal(
        loss, focal_loss(logits[labels != IGNORED], labels[labels != IGNORED], 0.25, 2)
    )
    assert (_gradient(logits)[labels == IGNORED] == 0).all()
    assert (_gradient(logits)[labels != IGNORED] != 0).all()


def test_an_anchor_takes_the_label_of_what_it_overlaps() -> None:
    anchors = torch.tensor(
        [[0.0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 22], [0, 0, 10, 40], [50, 50, 54, 60]]
    )
    target = make_target([[0, 0, 10, 10], [50, 50, 60, 60]], [3, 1])
    labels, boxes = make_losses(ContinuousBoxes()).assign(anchors, [target])
    # IoU 1, 0.5, 0.45 (between the thresholds), 0.25, and 0.4 that is the best for its object.
    assert labels.tolist() == [[3, 3, IGNORED, BACKGROUND, 1]]
    assert boxes[0, [0, 1, 4]].tolist() == target["boxes"][[0, 0, 1]].tolist()


def test_anchors_over_the_images_edge_are_trained_on() -> None:
    anchors = torch.tensor([[-20.0, -20, 20, 20], [0, 0, 5, 5]])
    labels, _ = make_losses(InclusiveBoxes()).assign(
        anchors, [make_target([[-2, -2, 20, 20]], [2])]
    )
    assert labels.tolist() == [[2, BACKGROUND]]


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_box_loss_is_over_positives_times_the_divisor(arithmetic: BoxArithmetic) -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [80, 80, 99, 99]])
    targets = [make_target([[0, 0, 11, 10], [20, 22, 40, 41]], [1, 2])]
    deltas = torch.full((1, 3, 4), 0.5)
    losses = make_losses(arithmetic)(torch.zeros(1, 3, 2), deltas, [anchors], targets)
    difference = arithmetic.encode(targets[0]["boxes"], anchors[:2], (10, 10, 5, 5)) - 0.5
    of_each = torch.where(difference.abs() < 0.11, difference**2 / 0.22, difference.abs() - 0.055)
    torch.testing.assert_close(losses["loss_retina_reg"], of_each.sum() / (2 * 4))


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_an_image_without_objects_is_all_background(arithmetic: BoxArithmetic) -> None:
    anchors = [torch.rand(6, 4).cumsum(dim=1), torch.rand(2, 4).cumsum(dim=1)]
    logits = torch.randn(2, 8, 3, requires_grad=True)
    deltas = torch.randn(2, 8, 4, requires_grad=True)
    targets = [make_target([], []), make_target([], [])]
    losses = make_losses(arithmetic)(logits, deltas, anchors, targets)
    background = focal_loss(logits, torch.zeros(2, 8, dtype=torch.int64), 0.25, 2)
    torch.testing.assert_close(losses["loss_retina_cls"], background / 2)
    assert losses["loss_retina_reg"] == 0
    torch.stack(list(losses.values())).sum().backward()
    assert torch.equal(_gradient(deltas), torch.zeros(2, 8, 4))
    assert (_gradient(logits) != 0).all()


def test_class_loss_is_over_positives_and_images() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    targets = [make_target([[0, 0, 10, 10]], [2]), make_target([], [])]
    logits = torch.randn(2, 2, 3)
    losses = make_losses(ContinuousBoxes())(logits, torch.zeros(2, 2, 4), [anchors], targets)
    total = focal_loss(logits, torch.tensor([[2, 0], [0, 0]]), 0.25, 2)
    torch.testing.assert_close(losses["loss_retina_cls"], total / 3)


def _gradient(of: Tensor) -> Tensor:
    assert of.grad is not None
    return of.grad

"""Which of all anchors' classes become RetinaNet's detections."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detengine.modeling.boxes import ContinuousBoxes, InclusiveBoxes
from detengine.modeling.retinanet_detections import DetectionSelector, best_candidates

SELECTOR = DetectionSelector(
    arithmetic=ContinuousBoxes(),
    box_weights=(10, 10, 5, 5),
    score_threshold=0.05,
    candidates_per_level=1000,
    nms_threshold=0.4,
    detections_per_image=100,
    keep_ties=False,
    min_size=0,
)
ANCHORS = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [30, 30, 45, 50], [-20, -9, 5, 5]])


def select(selector: DetectionSelector, scores: list[list[float]]) -> dict[str, Tensor]:
    """One image of 40 x 60 pixels whose anchors are not shifted."""
    logits = torch.tensor(scores).logit()[None]
    [detections] = selector(logits, torch.zeros(1, 4, 4), ANCHORS.split([3, 1]), [(40, 60)])
    return detections


@given(
    st.integers(1, 3), st.integers(1, 12), st.integers(1, 5), st.integers(1, 70), st.integers(0, 99)
)
def test_candidates_are_the_best_of_all_anchors_classes(
    images: int, anchors: int, classes: int, count: int, seed: int
) -> None:
    logits = torch.randn(images, anchors, classes, generator=torch.Generator().manual_seed(seed))
    score, anchor, label = best_candidates(logits, count)
    expected = logits.flatten(1).topk(min(count, anchors * classes), dim=1)
    assert torch.equal(score, expected.values.sigmoid())
    assert torch.equal(anchor * classes + label - 1, expected.indices)


def test_boxes_are_clipped_and_come_best_first_with_their_labels() -> None:
    detections = select(SELECTOR, [[0.5, 0], [0, 0.04], [0, 0.9], [0.6, 0]])
    assert detections["labels"].tolist() == [2, 1, 1]
    torch.testing.assert_close(detections["scores"], torch.tensor([0.9, 0.6, 0.5]))
    assert detections["boxes"].tolist() == [[30, 30, 45, 40], [0, 0, 5, 5], [0, 0, 10, 10]]


def test_inclusive_boxes_are_clipped_to_the_last_pixel() -> None:
    selector = replace(SELECTOR, arithmetic=InclusiveBoxes())
    detections = select(selector, [[0, 0], [0, 0], [0, 0.9], [0.6, 0]])
    torch.testing.assert_close(
        detections["boxes"], torch.tensor([[30.0, 30, 45, 39], [0, 0, 5, 5]])
    )


def test_nms_is_within_a_class() -> None:
    same_class = select(SELECTOR, [[0.5, 0], [0.7, 0], [0, 0], [0, 0]])
    assert same_class["boxes"].tolist() == [[0, 0, 10, 9]]
    other_class = select(SELECTOR, [[0.5, 0], [0, 0.7], [0, 0], [0, 0]])
    assert other_class["labels"].tolist() == [2, 1]


def test_a_score_at_the_threshold_is_none() -> None:
    at_half = replace(SELECTOR, score_threshold=0.5)
    detections = select(at_half, [[0.5, 0], [0, 0.501], [0.499, 0], [0, 0]])
    assert detections["labels"].tolist() == [2]


def test_each_level_gives_no_more_candidates_than_it_may() -> None:
    one_each = replace(SELECTOR, candidates_per_level=1)
    detections = select(one_each, [[0.5, 0], [0, 0.6], [0, 0.9], [0.3, 0.2]])
    torch.testing.assert_close(detections["scores"], torch.tensor([0.9, 0.3]))


@pytest.mark.parametrize(("keep_ties", "count"), [(True, 3), (False, 2)])
def test_the_cap_lets_ties_through_where_they_are_kept(keep_ties: bool, count: int) -> None:
    capped = replace(SELECTOR, detections_per_image=2, keep_ties=keep_ties)
    detections = select(capped, [[0.5, 0.9], [0, 0.1], [0.5, 0], [0, 0]])
    assert detections["labels"].tolist() == [2, 1, 1][:count]


def test_boxes_of_no_size_are_left_out_where_a_size_is_asked_for() -> None:
    outside = [[0, 0], [0, 0], [0, 0.9], [0, 0]]
    logits = torch.tensor(outside).logit()[None]
    for min_size, count in [(0, 1), (1e-2, 0)]:
        selector = replace(SELECTOR, min_size=min_size)
        [detections] = selector(logits, torch.zeros(1, 4, 4), [ANCHORS], [(20, 20)])
        assert len(detections["scores"]) == count


def test_nothing_found_is_three_empty_tensors() -> None:
    detections = select(SELECTOR, [[0, 0]] * 4)
    assert {key: tuple(value.shape) for key, value in detections.items()} == {
        "boxes": (0, 4),
        "scores": (0,),
        "labels": (0,),
    }
    assert detections["labels"].dtype == torch.int64

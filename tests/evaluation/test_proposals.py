from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from detengine.evaluation.evaluate import evaluate
from detengine.evaluation.evaluator import Evaluator
from detengine.evaluation.options import COCO_AREAS, ScoringOptions

PROPOSALS = ScoringOptions(metrics=("proposals",))
with_fixture = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _xyxy(xywh):
    return torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1)


def with_proposals(case, seed):
    """More than a hundred proposals an image: around the objects, and anywhere."""
    generator = torch.Generator().manual_seed(seed)
    truth = case.ground_truth
    for index, image_id in enumerate(truth.image_ids.tolist()):
        objects = _xyxy(truth.boxes_xywh[truth.annotations_of(index)].float())
        near = [objects + torch.randn(objects.shape, generator=generator) * s for s in (1, 3, 6)]
        corners = torch.cat([*near, torch.rand(150, 4, generator=generator) * 100])
        boxes = torch.cat(
            [torch.minimum(corners[:, :2], corners[:, 2:]), corners.view(-1, 2, 2).amax(1) + 1], 1
        )
        case.predictions[image_id] = replace(
            case.predictions[image_id],
            boxes_xyxy=boxes,
            scores=torch.rand(len(boxes), generator=generator),
            labels=None,
            rles=None,
        )
    return case


def recall(case, limit, area):
    """As the predecessor says it: give the best pair away, then the best of those left."""
    low, high = COCO_AREAS[area]
    truth, found, objects = case.ground_truth, [], 0
    for index, image_id in enumerate(truth.image_ids.tolist()):
        rows = truth.annotations_of(index)
        counts = ~(truth.is_crowd | truth.is_difficult)[rows]
        counts &= (truth.areas[rows] >= low) & (truth.areas[rows] <= high)
        targets = _xyxy(truth.boxes_xywh[rows].float())[counts]
        prediction = case.predictions[image_id]
        first = prediction.scores.sort(descending=True, stable=True).indices[:limit]
        overlaps = box_iou(prediction.boxes_xyxy[first], targets)
        objects += len(targets)
        for _ in range(min(overlaps.shape)):
            best = int(overlaps.argmax())
            box, target = divmod(best, len(targets))
            found.append(float(overlaps[box, target]))
            overlaps[box], overlaps[:, target] = -1, -1
    if not objects:
        return -1
    thresholds = torch.arange(0.5, 0.95 + 1e-5, 0.05)
    return float(torch.stack([(torch.tensor(found) >= t).sum() for t in thresholds]).sum()) / (
        10 * objects
    )


@with_fixture
@given(seed=st.integers(0, 2**32 - 1))
def test_recalls_are_those_of_giving_the_best_pairs_away_one_by_one(make_case, seed):
    case = with_proposals(make_case(seed), seed)
    pairs = case.predictions.items()
    result = evaluate(case.ground_truth, pairs, case.class_names, options=PROPOSALS)
    for name, value in result.metrics["box_proposal"].items():
        suffix, _, limit = name.removeprefix("AR").partition("@")
        area = {"": "all", "s": "small", "m": "medium", "l": "large"}[suffix]
        assert value == pytest.approx(recall(case, int(limit), area), abs=1e-6), name


def test_recalls_are_the_predecessors_to_the_last_bit(make_case):
    """Numbers of its own evaluate_box_proposals, run once on the same boxes, made inclusive."""
    case = with_proposals(make_case(4, images=12), 4)
    pairs = case.predictions.items()
    result = evaluate(case.ground_truth, pairs, case.class_names, options=PROPOSALS)
    assert result.metrics["box_proposal"] == RECORDED


RECORDED = {
    "AR@100": 0.4035714566707611,
    "ARs@100": 0.3333333134651184,
    "ARm@100": 0.824999988079071,
    "ARl@100": -1,
    "AR@1000": 0.6035714149475098,
    "ARs@1000": 0.5458333492279053,
    "ARm@1000": 0.949999988079071,
    "ARl@1000": -1,
}


@with_fixture
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_scored_on_any_ranks_in_any_order_and_merged_they_are_scored_in_one_piece(
    make_case, seed, data
):
    case = with_proposals(make_case(seed), seed)
    order = data.draw(st.permutations(list(case.predictions)))
    names = case.class_names
    expected = evaluate(case.ground_truth, case.predictions.items(), names, options=PROPOSALS)
    first, *others = [Evaluator(case.ground_truth, names, options=PROPOSALS) for _ in range(3)]
    for number, image_id in enumerate(order):
        [first, *others][number % 3].update(image_id, case.predictions[image_id])
    first.merge_notes(each.notes() for each in others)
    first.merge_matches("box_proposal", (each.matches("box_proposal") for each in others))
    assert first.result() == expected


def test_an_area_range_without_objects_is_no_number_and_no_crash(make_case):
    case = with_proposals(make_case(0), 0)
    case.ground_truth = replace(
        case.ground_truth, areas=torch.full_like(case.ground_truth.areas, 50.0)
    )
    pairs = case.predictions.items()
    result = evaluate(case.ground_truth, pairs, case.class_names, options=PROPOSALS)
    metrics = result.metrics["box_proposal"]
    assert metrics["ARm@100"] == metrics["ARl@1000"] == -1
    assert metrics["ARs@100"] == metrics["AR@100"] > 0
    assert "n/a" in result.table()


def test_no_proposals_at_all_is_recall_0_with_its_reason(make_case):
    case = with_proposals(make_case(0), 0)
    nothing = torch.empty(0)
    pairs = [
        (image_id, replace(each, boxes_xyxy=nothing.view(0, 4), scores=nothing))
        for image_id, each in case.predictions.items()
    ]
    result = evaluate(case.ground_truth, pairs, case.class_names, options=PROPOSALS)
    assert result.metrics["box_proposal"]["AR@1000"] == 0
    assert "not a single detection" in result.reasons["box_proposal"]

"""A score of 0 or -1 says why, in the result and under its table."""

from dataclasses import replace

import pytest
import torch

from detengine.evaluation.evaluate import evaluate
from detengine.evaluation.evaluator import Evaluator

BOTH = ("bbox", "segm")


def _reasons(case, predictions, iou_types=BOTH):
    names = case.class_names
    result = evaluate(case.ground_truth, predictions.items(), names, iou_types)
    for task, reason in result.reasons.items():
        assert f"{task}: {reason}" in result.table()
    return result.reasons


def test_a_score_that_is_neither_has_no_reason(case):
    assert _reasons(case, case.predictions) == {}


def test_no_detection(case):
    nothing = {key: each.of_labels([]) for key, each in case.predictions.items()}
    reason = "AP is 0: there is not a single detection in 8 images"
    assert _reasons(case, nothing) == {"bbox": reason, "segm": reason}


def test_detections_of_classes_that_the_ground_truth_does_not_have(case):
    case.class_names = (*case.class_names, "unicorn")
    unicorns = {
        key: replace(each, labels=torch.full_like(each.labels, 4))
        for key, each in case.predictions.items()
    }
    number = sum(map(len, unicorns.values()))
    reason = f"AP is 0: all {number} detections are of classes that the ground truth does not have"
    assert _reasons(case, unicorns)["segm"] == reason


def test_boxes_that_are_fractions_of_the_image(case):
    small = {
        key: replace(each, boxes_xyxy=each.boxes_xyxy / torch.tensor([160.0, 120.0] * 2))
        for key, each in case.predictions.items()
    }
    [reason] = _reasons(case, small, ("bbox",)).values()
    assert reason.endswith("are they fractions of the image in the place of pixels?")


def test_boxes_that_lie_elsewhere(case):
    moved = {
        key: replace(each, boxes_xyxy=each.boxes_xyxy + 1000)
        for key, each in case.predictions.items()
    }
    [reason] = _reasons(case, moved, ("bbox",)).values()
    assert "overlaps an object of its class enough to count" in reason
    assert "the boxes in the pixels of another image size?" in reason


@pytest.mark.parametrize("flag", ["is_crowd", "is_difficult"])
def test_crowds_and_difficult_objects_alone(case, flag):
    truth = case.ground_truth
    case.ground_truth = replace(truth, **{flag: torch.ones_like(truth.is_crowd)})
    [reason] = _reasons(case, case.predictions, ("bbox",)).values()
    number = len(truth.annotation_ids)
    assert reason == (
        f"AP is -1: the 8 images have no object to find: all {number} annotations are crowds or "
        "difficult"
    )


def test_no_annotation_of_a_class_that_is_scored(make_case):
    case = make_case(7, images=4)
    truth = case.ground_truth
    unused = next(
        name for name, id_ in zip(truth.categories.names, truth.categories.ids, strict=True)
    )
    others = replace(
        truth, category_ids=torch.full_like(truth.category_ids, truth.categories.ids[1])
    )
    case.ground_truth, case.class_names = others, (unused,)
    empty = {key: each.of_labels([]) for key, each in case.predictions.items()}
    [reason] = _reasons(case, empty, ("bbox",)).values()
    assert reason == "AP is -1: the 4 images have no annotation of the classes that are scored"


def test_the_reason_is_that_of_all_ranks_together(case):
    first, *others = case.predictions
    evaluators = [Evaluator(case.ground_truth, case.class_names) for _ in range(2)]
    small = {
        key: replace(each, boxes_xyxy=each.boxes_xyxy / 1000)
        for key, each in case.predictions.items()
    }
    evaluators[0].update(first, case.predictions[first].of_labels([]))
    for key in others:
        evaluators[1].update(key, small[key])
    evaluators[0].merge_notes([evaluators[1].notes()])
    evaluators[0].merge_matches("bbox", [evaluators[1].matches("bbox")])
    number = sum(len(small[key]) for key in others)
    assert f"all {number} boxes lie within one pixel" in evaluators[0].result().reasons["bbox"]

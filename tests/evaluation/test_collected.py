"""Detections that are kept are scored as those that are streamed."""

from dataclasses import replace

import pytest
import torch

from detengine.evaluation.collected import collect
from detengine.evaluation.evaluate import evaluate
from detengine.evaluation.options import ScoringOptions


@pytest.mark.parametrize("iou_type", ["bbox", "segm", "keypoints"])
@pytest.mark.parametrize("seed", range(4))
def test_kept_detections_in_any_order_have_the_streamed_scores_to_the_last_bit(
    make_case, with_keypoints, seed, iou_type
):
    case = with_keypoints(make_case(seed), seed)
    given = case.ground_truth, case.predictions.items(), case.class_names
    streamed = evaluate(*given, (iou_type,))
    shuffled = sorted(case.predictions.items(), key=lambda item: item[0] % 7)
    _, kept = collect(given[0], shuffled, given[2], iou_type)
    assert kept == streamed


def test_options_and_classes_of_only_one_side_are_as_for_the_scores(make_case):
    case = make_case(3, classes=4)
    options = ScoringOptions(
        iou_thresholds=(0.4, 0.7), area_ranges={"tiny": (0.0, 500.0)}, max_detections=(1, 2)
    )
    class_names = ("another", *case.class_names[1:])
    given = case.ground_truth, case.predictions.items(), class_names
    _, kept = collect(*given, "bbox", options=options)
    assert kept == evaluate(*given, ("bbox",), options=options)


def test_a_data_set_that_is_not_scored_by_coco_is_refused(case):
    with pytest.raises(ValueError, match=r"scored by proposals, but .* set TEST.METRICS to \[coco"):
        collect(
            case.ground_truth,
            [],
            case.class_names,
            "bbox",
            options=ScoringOptions(metrics=("proposals",)),
        )


def test_what_the_evaluator_refuses_is_refused(case):
    (image_id, prediction), *others = case.predictions.items()
    with pytest.raises(ValueError, match=f"{image_id}"):
        collect(case.ground_truth, others, case.class_names, "bbox")
    spoiled = replace(prediction, scores=torch.full((len(prediction),), float("nan")))
    with pytest.raises(ValueError, match="not a number"):
        collect(case.ground_truth, [(image_id, spoiled)], case.class_names, "bbox")

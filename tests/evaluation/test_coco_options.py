"""COCO's parameters, set as a user would: pycocotools with the same Params is the oracle."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detengine.evaluation.evaluate import evaluate
from detengine.evaluation.evaluator import Evaluator
from detengine.evaluation.options import ScoringOptions
from detengine.evaluation.scorers import measured_tasks
from detengine.structures.prediction import Prediction

with_fixture = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _mean(values):
    values = values[values > -1]
    return np.mean(values) if values.size else -1


def _score(case, iou_type, **options):
    pairs = case.predictions.items()
    options = ScoringOptions(**options)
    result = evaluate(case.ground_truth, pairs, case.class_names, (iou_type,), options=options)
    assert tuple(result.metrics[iou_type]) == measured_tasks((iou_type,), options)[iou_type]
    return result.metrics[iou_type]


@with_fixture
@given(seed=st.integers(0, 2**32 - 1))
def test_other_thresholds_and_limits_are_those_of_pycocotools(make_case, seed):
    case = make_case(seed, images=5)
    thresholds, limits = (0.3, 0.5, 0.65), (2, 5)
    metrics = _score(case, "bbox", iou_thresholds=thresholds, max_detections=limits)
    curves = case.evaluated("bbox", iouThrs=np.array(thresholds), maxDets=list(limits)).eval
    assert metrics["AP"] == _mean(curves["precision"][..., 0, -1])
    assert metrics["AP50"] == _mean(curves["precision"][1, ..., 0, -1])
    assert metrics["APs"] == _mean(curves["precision"][..., 1, -1])
    assert metrics["AR2"] == _mean(curves["recall"][..., 0, 0])
    assert metrics["AR5"] == _mean(curves["recall"][..., 0, 1])
    assert "AP75" not in metrics


@with_fixture
@given(seed=st.integers(0, 2**32 - 1))
def test_other_areas_are_those_of_pycocotools(make_case, seed):
    case = make_case(seed, images=5)
    areas = {"tiny": (0.0, 300.0), "huge": (3000.0, 1e10)}
    metrics = _score(case, "segm", area_ranges=areas)
    ranges = [[0, 1e10], *map(list, areas.values())]
    curves = case.evaluated("segm", areaRng=ranges, areaRngLbl=["all", *areas]).eval
    assert metrics["AP"] == _mean(curves["precision"][..., 0, -1])
    assert metrics["AP_tiny"] == _mean(curves["precision"][..., 1, -1])
    assert metrics["AR_huge"] == _mean(curves["recall"][..., 2, -1])


def with_keypoints(case, seed, joints):
    generator = torch.Generator().manual_seed(seed)
    truth = case.ground_truth
    corners, sides = truth.boxes_xywh[:, None, :2], truth.boxes_xywh[:, None, 2:]
    shape = (len(truth.areas), joints, 2)
    places = corners + sides * torch.rand(shape, generator=generator, dtype=torch.float64)
    visible = torch.randint(0, 3, (*shape[:2], 1), generator=generator)
    keypoints = torch.cat([places, visible], dim=2)
    case.ground_truth = replace(
        truth, keypoints=keypoints, num_keypoints=(visible[..., 0] > 0).sum(1)
    )
    for index, image_id in enumerate(truth.image_ids.tolist()):
        near = keypoints[truth.annotations_of(index)].float()
        near[..., :2] += torch.randn(near[..., :2].shape, generator=generator) * 3
        case.predictions[image_id] = Prediction(
            boxes_xyxy=torch.tensor([[0.0, 0.0, 9.0, 9.0]]).repeat(len(near), 1),
            scores=torch.rand(len(near), generator=generator),
            labels=torch.ones(len(near), dtype=torch.int64),
            keypoints=near,
            size=case.predictions[image_id].size,
        )
    return case


@with_fixture
@given(seed=st.integers(0, 2**32 - 1))
def test_other_sigmas_are_those_of_pycocotools(make_case, seed):
    sigmas = (0.05, 0.1, 0.2, 0.07, 0.03)
    case = with_keypoints(make_case(seed, images=3, classes=1), seed, joints=5)
    metrics = _score(case, "keypoints", keypoint_sigmas=sigmas)
    evaluation = case.evaluated("keypoints", kpt_oks_sigmas=np.array(sigmas))
    assert metrics["AP"] == _mean(evaluation.eval["precision"][..., 0, -1])
    assert metrics["AR75"] == _mean(evaluation.eval["recall"][5, ..., 0, -1])


def test_keypoints_without_a_sigma_each_are_refused(make_case):
    case = with_keypoints(make_case(0, images=2, classes=1), 0, joints=5)
    with pytest.raises(ValueError, match=r"have 5 keypoints, but there are 17 sigmas.*KEYPOINT_SI"):
        Evaluator(case.ground_truth, case.class_names, ("keypoints",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": None}, "keypoints are to be scored, but the prediction has none"),
        ({"keypoints": torch.zeros(1, 4, 3)}, r"have 5 keypoints, so that keypoints\[\d+, 5, 3\]"),
        ({"keypoints": torch.full((1, 5, 3), torch.nan)}, "a keypoint is not a number"),
    ],
)
def test_keypoints_that_cannot_be_scored_are_refused(make_case, change, message):
    case = with_keypoints(make_case(0, images=6, classes=1), 0, joints=5)
    options = ScoringOptions(keypoint_sigmas=(0.1,) * 5)
    evaluator = Evaluator(case.ground_truth, case.class_names, ("keypoints",), options=options)
    image_id, given = next((key, each) for key, each in case.predictions.items() if len(each))
    one = replace(
        given, boxes_xyxy=given.boxes_xyxy[:1], scores=given.scores[:1], labels=given.labels[:1]
    )
    with pytest.raises(ValueError, match=message):
        evaluator.update(image_id, replace(one, **change))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ()}, "expected at least one, each of them once"),
        ({"metrics": ("coco", "coco")}, "each of them once"),
        ({"iou_thresholds": (0.0, 0.5)}, r"an IoU threshold is 0.0, but must be in \(0, 1\]"),
        (
            {"iou_thresholds": (0.6, 0.5)},
            r"TEST.IOU_THRESHOLDS is \[0.6, 0.5\]; expected .* ascending",
        ),
        ({"max_detections": ()}, r"TEST.MAX_DETECTIONS is \[\]; expected at least one"),
        ({"max_detections": (0, 5)}, "TEST.MAX_DETECTIONS has 0, but all must be positive"),
        ({"area_ranges": {"odd": (9.0, 4.0)}}, "the area range 'odd' is from 9.0 to 4.0"),
        (
            {"area_ranges": {"any": (0.0, 1e10)}},
            "the area ranges 'all' and 'any' are both from 0.0",
        ),
        ({"keypoint_sigmas": (0.1, 0.0)}, "all must be positive"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ScoringOptions(**options)


def test_a_metric_that_does_not_exist_is_refused(case):
    with pytest.raises(ValueError, match="the metric 'rouge' is none of coco, "):
        Evaluator(case.ground_truth, case.class_names, options=ScoringOptions(metrics=("rouge",)))

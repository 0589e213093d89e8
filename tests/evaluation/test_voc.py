import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detengine.evaluation.evaluate import evaluate
from detengine.evaluation.evaluator import Evaluator
from detengine.evaluation.options import ScoringOptions
from detengine.structures.categories import Categories
from detengine.structures.ground_truth import GroundTruth, PackedBytes
from detengine.structures.prediction import Prediction

VOC = ScoringOptions(metrics=("voc",))
with_fixture = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def make_truth(images, num_classes):
    """images: (size_wh, boxes_xyxy, labels, difficult) of each; boxes continuous."""
    boxes = torch.tensor(
        [box for _, each, _, _ in images for box in each], dtype=torch.float64
    ).view(-1, 4)
    xywh = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
    number = len(boxes)
    names = tuple(f"class {k}" for k in range(1, num_classes + 1))
    return GroundTruth(
        categories=Categories(names, tuple(range(1, num_classes + 1))),
        image_ids=torch.arange(1, len(images) + 1),
        image_sizes=torch.tensor([(h, w) for (w, h), *_ in images]),
        file_names=PackedBytes.from_list([b"%d.jpg" % n for n in range(len(images))]),
        offsets=torch.tensor([0, *np.cumsum([len(each) for _, each, _, _ in images])]),
        annotation_ids=torch.arange(1, number + 1),
        category_ids=torch.tensor([k for *_, ks, _ in images for k in ks], dtype=torch.int64),
        boxes_xywh=xywh,
        areas=xywh[:, 2] * xywh[:, 3],
        is_crowd=torch.zeros(number, dtype=torch.bool),
        is_difficult=torch.tensor([bool(d) for *_, ds in images for d in ds], dtype=torch.bool),
    )


def _opened(boxes):
    """From the predecessor's, which name their last pixel."""
    return [[x1, y1, x2 + 1, y2 + 1] for x1, y1, x2, y2 in boxes]


RECORDED = Path(__file__).parents[2] / "../shared/golden/small/voc_eval.json"


@pytest.fixture
def recorded():
    if not RECORDED.is_file():
        pytest.skip("the recordings of the predecessor are not here")
    return json.loads(RECORDED.read_text())


@pytest.mark.parametrize("iou", [0.5, 0.7])
@pytest.mark.parametrize("ranks", [1, 3])
def test_every_ap_is_the_predecessors_to_the_last_bit(recorded, iou, ranks):
    images = recorded["images"]
    truth = make_truth(
        [
            (tuple(e["size_wh"]), _opened(e["gt_boxes"]), e["gt_labels"], e["gt_difficult"])
            for e in images
        ],
        num_classes=len(recorded["results"]["use_07_metric=True,iou=0.5"]["ap"]) - 1,
    )
    options = replace(VOC, voc_iou_threshold=iou, voc_extra_pixel=True)
    names = truth.categories.names
    evaluators = [Evaluator(truth, names, options=options) for _ in range(ranks)]
    for number, each in enumerate(images):
        width, height = each["size_wh"]
        boxes = torch.tensor(each["det_boxes"], dtype=torch.float32).view(-1, 4)
        boxes[:, 2:] += 1
        prediction = Prediction(
            boxes_xyxy=boxes,
            scores=torch.tensor(each["det_scores"], dtype=torch.float32),
            labels=torch.tensor(each["det_labels"], dtype=torch.int64),
            size=(height, width),
        )
        evaluators[number % ranks].update(number + 1, prediction)
    first, *others = evaluators
    first.merge_notes(each.notes() for each in others)
    for task in first.tasks:
        first.merge_matches(task, (each.matches(task) for each in others))
    result = first.result()
    for task, eleven in (("voc2007", True), ("voc2012", False)):
        expected = recorded["results"][f"use_07_metric={eleven},iou={iou}"]
        assert result.metrics[task] == {f"AP{round(100 * iou)}": expected["map"]}
        aps = [-1 if ap is None else ap for ap in expected["ap"][1:]]
        assert list(result.per_class[task].values()) == aps


def _prediction(boxes, scores, size=(100, 100)):
    return Prediction(
        boxes_xyxy=torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        scores=torch.tensor(scores, dtype=torch.float32),
        labels=torch.ones(len(scores), dtype=torch.int64),
        size=size,
    )


def _score(images, predictions, **options):
    truth = make_truth(images, 1)
    options = replace(VOC, **options)
    pairs = enumerate(predictions, start=1)
    return evaluate(truth, pairs, truth.categories.names, options=options)


SQUARE = [10.0, 10.0, 30.0, 30.0]


def test_a_second_detection_of_an_object_is_a_miss():
    images = [((100, 100), [SQUARE, [50.0, 50.0, 60.0, 60.0]], [1, 1], [0, 0])]
    result = _score(images, [_prediction([SQUARE, SQUARE, [50, 50, 60, 60]], [0.9, 0.8, 0.7])])
    # precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1
    assert result.metrics["voc2012"]["AP50"] == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert result.metrics["voc2007"]["AP50"] == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_what_overlaps_a_difficult_object_most_is_neither_hit_nor_miss():
    images = [((100, 100), [SQUARE, [50.0, 50.0, 60.0, 60.0]], [1, 1], [1, 0])]
    result = _score(images, [_prediction([SQUARE, [50, 50, 60, 60]], [0.9, 0.8])])
    assert result.metrics["voc2012"]["AP50"] == 1


def test_boxes_overlap_by_their_pixels_as_in_the_devkit_and_not_by_one_more():
    # pixels 1..10 against 1..20 of a row of one: 10 of 20
    images = [((100, 100), [[0.0, 0.0, 20.0, 1.0]], [1], [0])]
    predictions = [_prediction([[0, 0, 10, 1]], [0.9])]
    assert _score(images, predictions).metrics["voc2012"]["AP50"] == 1
    # 11 of 21 by the predecessor's arithmetic, which is more
    missed = _score(images, predictions, voc_iou_threshold=0.51)
    assert missed.metrics["voc2012"]["AP51"] == 0
    found = _score(images, predictions, voc_iou_threshold=0.51, voc_extra_pixel=True)
    assert found.metrics["voc2012"]["AP51"] == 1


def test_a_class_without_objects_is_not_in_the_mean_and_no_object_at_all_is_said():
    images = [((100, 100), [], [], [])]
    result = _score(images, [_prediction([SQUARE], [0.9])])
    assert result.metrics["voc2007"]["AP50"] == -1
    assert "no annotation of the classes that are scored" in result.reasons["voc2007"]


def test_no_predictions_at_all_is_ap_0_with_its_reason():
    images = [((100, 100), [SQUARE], [1], [0])]
    result = _score(images, [_prediction([], [])])
    assert result.metrics["voc2012"]["AP50"] == 0
    assert result.reasons["voc2012"] == "AP50 is 0: there is not a single detection in 1 images"


def test_of_equal_scores_the_earlier_detection_goes_first():
    images = [((100, 100), [SQUARE], [1], [0])]
    hit_first = _score(images, [_prediction([SQUARE, [60, 60, 70, 70]], [0.5, 0.5])])
    miss_first = _score(images, [_prediction([[60, 60, 70, 70], SQUARE], [0.5, 0.5])])
    assert hit_first.metrics["voc2012"]["AP50"] == 1
    assert miss_first.metrics["voc2012"]["AP50"] == 0.5


@with_fixture
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_scored_on_any_ranks_in_any_order_and_merged_it_is_scored_in_one_piece(
    make_case, seed, data
):
    case = make_case(seed)
    names = case.class_names
    ranks = data.draw(st.integers(1, 4))
    order = data.draw(st.permutations(list(case.predictions)))
    expected = evaluate(case.ground_truth, case.predictions.items(), names, options=VOC)
    first, *others = [Evaluator(case.ground_truth, names, options=VOC) for _ in range(ranks)]
    for number, image_id in enumerate(order):
        [first, *others][number % ranks].update(image_id, case.predictions[image_id])
    first.merge_notes(each.notes() for each in others)
    for task in first.tasks:
        first.merge_matches(task, (each.matches(task) for each in others))
    assert first.result() == expected


def test_a_rank_without_images_changes_nothing():
    truth = make_truth([((100, 100), [SQUARE], [1], [False])], 1)
    first, idle = [Evaluator(truth, truth.categories.names, options=VOC) for _ in range(2)]
    first.update(1, _prediction([SQUARE], [0.5]))
    first.merge_notes([idle.notes()])
    for task in first.tasks:
        first.merge_matches(task, [idle.matches(task)])
    assert first.result().metrics["voc2007"]["AP50"] == pytest.approx(1)

import copy
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detengine.evaluation.evaluator import Evaluator
from detengine.structures.categories import Categories
from detengine.structures.ground_truth import PackedBytes
from detengine.structures.prediction import Prediction
from detengine.structures.rle import encode_counts

BOTH = ("bbox", "segm")
with_fixture = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _score(case, iou_types=BOTH, image_ids=None, **options):
    evaluator = Evaluator(case.ground_truth, case.class_names, iou_types, **options)
    for image_id in case.predictions if image_ids is None else image_ids:
        evaluator.update(image_id, case.predictions[image_id])
    return evaluator


def _merge(evaluators):
    """Into the first, as rank 0 does it with those of the last rank to rank 1."""
    first, *others = evaluators
    first.merge_notes(each.notes() for each in reversed(others))
    for task in first.tasks:
        first.merge_matches(task, (each.matches(task) for each in reversed(others)))


def _without_detections(prediction):
    return Prediction(
        boxes_xyxy=prediction.boxes_xyxy[:0],
        scores=prediction.scores[:0],
        labels=prediction.labels[:0],
        rles=[],
        size=prediction.size,
    )


def _assert_equals_the_reference(case, result):
    for iou_type in BOTH:
        metrics, per_class = case.reference(iou_type)
        assert result.metrics[iou_type] == metrics
        assert result.per_class[iou_type] == per_class


@with_fixture
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 8), classes=st.integers(1, 5))
def test_every_number_is_that_of_pycocotools_to_the_last_bit(make_case, seed, images, classes):
    case = make_case(seed, images=images, classes=classes)
    _assert_equals_the_reference(case, _score(case).result())


@with_fixture
@given(seed=st.integers(0, 2**32 - 1))
def test_a_model_of_some_of_the_classes_is_scored_over_those_as_by_pycocotools(make_case, seed):
    case = make_case(seed, classes=4)
    # The model knows the second and the fourth of its classes before, in the other order.
    case.class_names = (case.class_names[3], case.class_names[1])
    for image_id, each in case.predictions.items():
        kept = ((each.labels == 2) | (each.labels == 4)).nonzero()[:, 0]
        case.predictions[image_id] = replace(
            each,
            boxes_xyxy=each.boxes_xyxy[kept],
            scores=each.scores[kept],
            labels=3 - each.labels[kept] // 2,
            rles=[each.rles[n] for n in kept.tolist()],
        )
    result = _score(case).result()
    assert set(result.per_class["bbox"]) == set(case.class_names)
    _assert_equals_the_reference(case, result)


def test_a_match_with_the_annotation_id_0_counts_where_pycocotools_takes_it_for_none(make_case):
    case = make_case(1, images=1, classes=1, crowded=False)
    expected = _score(case).result()
    _assert_equals_the_reference(case, expected)
    case.ground_truth = replace(
        case.ground_truth, annotation_ids=case.ground_truth.annotation_ids - 1
    )
    assert _score(case).result() == expected
    assert case.reference("bbox")[0]["AP"] < expected.metrics["bbox"]["AP"]


@with_fixture
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_scored_on_any_ranks_in_any_order_and_merged_it_is_scored_in_one_piece(
    make_case, seed, data
):
    case = make_case(seed)
    ranks = data.draw(st.integers(1, 4))
    order = data.draw(st.permutations(list(case.predictions)))
    evaluators = [_score(case, BOTH, order[rank::ranks]) for rank in range(ranks)]
    _merge(evaluators)
    assert evaluators[0].result() == _score(case).result()
    _assert_equals_the_reference(case, evaluators[0].result())


@with_fixture
@given(seed=st.integers(0, 2**32 - 1))
def test_keypoints_are_scored_as_by_pycocotools(make_case, seed):
    case = make_case(seed, images=3, classes=1)
    generator = torch.Generator().manual_seed(seed)
    truth = case.ground_truth
    corners, sides = truth.boxes_xywh[:, None, :2], truth.boxes_xywh[:, None, 2:]
    number = len(truth.areas)
    places = corners + sides * torch.rand(number, 17, 2, generator=generator, dtype=torch.float64)
    visible = torch.randint(0, 3, (number, 17, 1), generator=generator)
    visible[torch.rand(number, generator=generator) < 0.2] = 0
    keypoints = torch.cat([places, visible], dim=2)
    num_keypoints = (visible[:, :, 0] > 0).sum(1)
    case.ground_truth = replace(truth, keypoints=keypoints, num_keypoints=num_keypoints)
    for index, image_id in enumerate(truth.image_ids.tolist()):
        near = keypoints[truth.annotations_of(index)].float()
        near[:, :, :2] += torch.randn(near[:, :, :2].shape, generator=generator) * 3
        case.predictions[image_id] = Prediction(
            boxes_xyxy=torch.tensor([[0.0, 0.0, 9.0, 9.0]]).repeat(len(near), 1),
            scores=torch.rand(len(near), generator=generator),
            labels=torch.ones(len(near), dtype=torch.int64),
            keypoints=near,
            size=case.predictions[image_id].size,
        )
    stats, _ = case.reference("keypoints")
    assert list(_score(case, ("keypoints",)).result().metrics["keypoints"].values()) == stats


def test_more_than_a_hundred_detections_of_an_image_are_cut_as_in_pycocotools(make_case):
    case = make_case(3, images=3, classes=2)
    for image_id, few in case.predictions.items():
        times = 150 // max(len(few), 1)
        fields = {name: getattr(few, name).repeat(times, 1) for name in ("boxes_xyxy",)}
        noise = torch.rand(len(few) * times, generator=torch.Generator().manual_seed(image_id))
        case.predictions[image_id] = replace(
            few, **fields, scores=noise, labels=few.labels.repeat(times), rles=few.rles * times
        )
    _assert_equals_the_reference(case, _score(case).result())


def _nothing(prediction):
    none = torch.empty(0, dtype=torch.int64)
    return replace(
        prediction, boxes_xyxy=torch.empty(0, 4), scores=none.float(), labels=none, rles=[]
    )


def test_no_detection_at_all_is_ap_0_where_there_is_ground_truth(case):
    case.predictions = {key: _nothing(value) for key, value in case.predictions.items()}
    result = _score(case).result()
    assert result.metrics["bbox"]["AP"] == 0
    _assert_equals_the_reference(case, result)


def test_without_ground_truth_there_is_nothing_to_score(case):
    truth = case.ground_truth
    empty = {
        name: getattr(truth, name)[:0]
        for name in (
            "annotation_ids",
            "category_ids",
            "boxes_xywh",
            "areas",
            "is_crowd",
            "is_difficult",
        )
    }
    case.ground_truth = replace(
        truth, **empty, offsets=torch.zeros_like(truth.offsets), masks=PackedBytes.from_list([])
    )
    assert set(_score(case).result().metrics["segm"].values()) == {-1}


def test_the_result_can_be_asked_for_twice_and_then_no_image_can_come(case):
    first, *others = case.predictions
    evaluator = _score(case, BOTH, others)
    with pytest.raises(ValueError, match=f"1 of 8 images have no prediction: {first}\\. "):
        evaluator.result()
    evaluator.update(first, case.predictions[first])
    assert evaluator.result() == evaluator.result() == _score(case).result()
    with pytest.raises(ValueError, match=f"image {first} comes after the result was asked for"):
        evaluator.update(first, case.predictions[first])


def test_ids_beyond_float_precision_and_negative_ones_change_nothing(case):
    expected = _score(case).result()
    shift = 2**62
    truth = case.ground_truth
    categories = Categories(truth.categories.names, tuple(k - 50 for k in truth.categories.ids))
    case.ground_truth = replace(
        truth,
        image_ids=truth.image_ids + shift,
        categories=categories,
        category_ids=truth.category_ids - 50,
        annotation_ids=truth.annotation_ids - 1,
    )
    case.predictions = {key + shift: value for key, value in case.predictions.items()}
    assert _score(case).result() == expected


def test_mask_probabilities_are_scored_as_their_encoded_masks(case):
    generator = torch.Generator().manual_seed(0)
    for key, each in case.predictions.items():
        mask_probs = torch.rand(len(each), 28, 28, generator=generator) + 0.3
        case.predictions[key] = replace(each, rles=None, mask_probs=mask_probs)
    result = _score(case).result()
    case.predictions = {key: each.encoded() for key, each in case.predictions.items()}
    _assert_equals_the_reference(case, result)


def test_detections_of_a_class_that_the_data_set_does_not_have_are_dropped_and_counted(
    case, caplog
):
    expected = _score(case).result()
    case.class_names = (*case.class_names, "unicorn", "dragon")
    key, each = next((key, each) for key, each in case.predictions.items() if len(each) > 1)
    extra = Prediction(
        boxes_xyxy=torch.cat([each.boxes_xyxy, each.boxes_xyxy[:2]]),
        scores=torch.cat([each.scores, each.scores[:2]]),
        labels=torch.cat([each.labels, torch.tensor([4, 4])]),
        rles=each.rles + each.rles[:2],
        size=each.size,
    )
    case.predictions[key] = extra
    parts = list(case.predictions)
    evaluator = _score(case, BOTH, parts[:4])
    _merge([evaluator, _score(case, BOTH, parts[4:])])
    with caplog.at_level(logging.WARNING):
        assert evaluator.result() == expected
    assert caplog.messages == [
        "2 detections of classes that the data set does not have were dropped: unicorn (2)"
    ]


def test_ground_truth_of_a_class_that_the_model_does_not_have_is_not_scored(case, caplog):
    expected = _score(case).result()
    truth = case.ground_truth
    categories = Categories((*truth.categories.names, "yeti"), (*truth.categories.ids, 99))
    more = replace(
        truth,
        categories=categories,
        offsets=truth.offsets + (torch.arange(len(truth) + 1) == len(truth)),
        masks=PackedBytes.from_list(
            [truth.masks[n] for n in range(len(truth.masks))] + [encode_counts(np.array([19200]))]
        ),
        **{
            name: torch.cat([column, torch.tensor([value], dtype=column.dtype)])
            for name, column, value in (
                ("annotation_ids", truth.annotation_ids, 999),
                ("category_ids", truth.category_ids, 99),
                ("areas", truth.areas, 4.0),
                ("is_crowd", truth.is_crowd, False),
                ("is_difficult", truth.is_difficult, False),
            )
        },
        boxes_xywh=torch.cat([truth.boxes_xywh, torch.ones(1, 4, dtype=torch.float64)]),
    )
    case.ground_truth = more
    assert _score(case).result() == expected
    assert "1 of the data set's 4 classes are not the model's, and are not scored: yeti" in (
        caplog.text
    )


def test_a_model_and_a_data_set_without_a_common_class_are_refused(case):
    with pytest.raises(ValueError, match=r"no class in common.*the model has cat; the data set cl"):
        Evaluator(case.ground_truth, ("cat",))


def test_an_annotation_of_an_unknown_category_is_refused(case):
    ids = case.ground_truth.category_ids.clone()
    ids[0] = 1234
    with pytest.raises(ValueError, match=r"annotations of the category ids \[1234\]"):
        Evaluator(replace(case.ground_truth, category_ids=ids), case.class_names)


def test_images_that_are_foreign_doubled_and_missing_are_named_in_one_error(case):
    first, second, *others = sorted(case.predictions)
    evaluator = _score(case, BOTH, others)
    assert not evaluator.update(4321, case.predictions[first])
    assert not evaluator.update(others[0], case.predictions[others[0]])
    _merge([evaluator, _score(case, BOTH, [first, others[1]])])
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the text is compared below
        evaluator.result()
    message = str(error.value)
    assert f"1 of 8 images have no prediction: {second}. Each image must be scored" in message
    doubled = f"2 images were predicted more than once: {others[0]}, {others[1]}. Each image must"
    assert doubled in message
    assert "1 images were predicted that the ground truth does not have: 4321; it has 8" in message


def test_asked_to_warn_a_missing_image_counts_as_one_without_detections(case, caplog):
    first, *others = sorted(case.predictions)
    evaluator = _score(case, BOTH, others, on_wrong_images="warn")
    with caplog.at_level(logging.WARNING):
        result = evaluator.result()
    assert f"1 of 8 images have no prediction: {first}. " in caplog.text
    case.predictions[first] = _without_detections(case.predictions[first])
    assert result == _score(case).result()
    _assert_equals_the_reference(case, result)


def test_asked_to_warn_a_doubled_image_counts_once_and_a_foreign_one_not(case):
    expected = _score(case).result()
    ids = sorted(case.predictions)
    nothing = _without_detections(case.predictions[ids[0]])
    evaluators = [_score(case, BOTH, part, on_wrong_images="warn") for part in (ids[:5], ids[5:])]
    for evaluator, image_ids in zip(evaluators, (ids[:2], ids[:6]), strict=True):
        for image_id in (*image_ids, 4321):
            evaluator.update(image_id, nothing)
    _merge(evaluators)
    assert evaluators[0].result() == expected


def test_parts_that_score_something_else_are_refused(case):
    with pytest.raises(ValueError, match="scores bbox, segm, but a part to merge scores bbox"):
        _merge([_score(case, BOTH, []), _score(case, ("bbox",))])


def test_missing_images_are_counted_and_the_first_ten_named(make_case):
    case = make_case(0, images=30)
    ids = sorted(case.predictions)
    with pytest.raises(ValueError, match=f"29 of 30 .*: {', '.join(map(str, ids[1:11]))}, ...\\. "):
        _score(case, BOTH, ids[:1]).result()


def _first_with_objects(case):
    return next((key, each) for key, each in case.predictions.items() if len(each) > 1)


def _changed(values, index, value):
    values = values.clone()
    values[index] = value
    return values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {"scores": _changed(p.scores, 1, torch.nan)}, "the score of detection 1 of"),
        (lambda p: {"boxes_xyxy": _changed(p.boxes_xyxy, 0, torch.nan)}, "the box of detection 0"),
        (lambda p: {"boxes_xyxy": _changed(p.boxes_xyxy, 1, torch.inf)}, "or is infinite"),
        (lambda p: {"boxes_xyxy": p.boxes_xyxy[:, [2, 3, 0, 1]]}, "ends before it begins"),
        (lambda p: {"boxes_xyxy": p.boxes_xyxy[:, [0, 3, 2, 1]]}, "ends before it begins"),
        (lambda p: {"labels": _changed(p.labels, 1, 4)}, r"label 4, but the labels of 3.*1\.\.3"),
        (lambda p: {"labels": _changed(p.labels, 1, 0)}, "detection 1 has the label 0"),
        (lambda p: {"labels": None}, "has no labels"),
        (lambda p: {"labels": p.labels[1:]}, r"expected boxes_xyxy\[N, 4\], scores\[N\]"),
        (lambda p: {"size": (160, 120)}, r"120 x 160 \(height x width\).*is for 160 x 120"),
        (lambda p: {"rles": None}, "segm is to be scored and needs a mask.*has none"),
        (lambda p: {"rles": p.rles[1:]}, "needs a mask .* for each of the"),
        (
            lambda p: {"rles": [{**p.rles[0], "size": [160, 120]}, *p.rles[1:]]},
            r"the mask of detection 0 is of the size \[160, 120\], but the image is of \[12",
        ),
    ],
)
def test_a_prediction_that_cannot_be_scored_is_refused_and_changes_nothing(case, change, message):
    image_id, prediction = _first_with_objects(case)
    evaluator = Evaluator(case.ground_truth, case.class_names, BOTH)
    before = [evaluator.notes(), *map(evaluator.matches, BOTH)]
    with pytest.raises(ValueError, match=rf"image {image_id} \({image_id}.jpg\).*{message}"):
        evaluator.update(image_id, replace(prediction, **change(prediction)))
    assert [evaluator.notes(), *map(evaluator.matches, BOTH)] == before


def test_without_a_single_annotation_there_is_nothing_to_score_and_no_error(case):
    truth = case.ground_truth
    columns = ("annotation_ids", "category_ids", "boxes_xywh", "areas", "is_crowd", "is_difficult")
    nothing = replace(
        truth,
        offsets=torch.zeros_like(truth.offsets),
        masks=None,
        **{name: getattr(truth, name)[:0] for name in columns},
    )
    evaluator = Evaluator(nothing, case.class_names, BOTH)
    for image_id, prediction in case.predictions.items():
        evaluator.update(image_id, prediction)
    result = evaluator.result()
    assert {value for metrics in result.metrics.values() for value in metrics.values()} == {-1}


def test_masks_cannot_be_scored_without_those_of_the_ground_truth(case):
    without = replace(case.ground_truth, masks=None)
    with pytest.raises(ValueError, match="segm was asked for, but the ground truth has no masks"):
        Evaluator(without, case.class_names, BOTH)
    strings = [case.ground_truth.masks[n] for n in range(len(case.ground_truth.masks))]
    without = replace(case.ground_truth, masks=PackedBytes.from_list([b"", *strings[1:]]))
    with pytest.raises(ValueError, match=r"1 annotations have no mask: 1 \(annotation ids\)"):
        Evaluator(without, case.class_names, BOTH)
    Evaluator(without, case.class_names, ("bbox",))


def test_an_unknown_iou_type_is_refused(case):
    with pytest.raises(ValueError, match="iou type 'boxes' is none of bbox, segm, keypoints"):
        Evaluator(case.ground_truth, case.class_names, ("boxes",))


def test_an_evaluator_does_not_change_the_prediction(case):
    kept = copy.deepcopy(case.predictions)
    _score(case).result()
    for image_id, each in case.predictions.items():
        assert torch.equal(each.boxes_xyxy, kept[image_id].boxes_xyxy)
        assert each.rles == kept[image_id].rles

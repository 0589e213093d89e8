"""Each analysis against cases counted by hand: hotcoco accepts much, and fails in silence."""

from dataclasses import replace

import numpy as np
import orjson
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detengine.evaluation.analysis import analyze
from detengine.evaluation.analysis_result import RECALLS, ErrorKind
from detengine.evaluation.evaluate import evaluate
from detengine.evaluation.options import ScoringOptions

IMAGE = 2**60
FIRST, OTHER = -7, 12
# Of every kind of error one; scores are exact in float32.
OBJECTS = [
    ("a", 0, 0, 10, 10, ""),
    ("a", 20, 0, 30, 10, ""),
    ("b", 40, 0, 50, 10, ""),
    ("a", 60, 0, 70, 10, ""),
    ("a", 0, 50, 40, 90, "crowd"),
    ("b", 50, 50, 90, 90, "difficult"),
]
HIT = ("a", 29 / 32, 0, 0, 10, 10)
DETECTIONS = [
    HIT,
    ("a", 26 / 32, 0, 0, 10, 9),  # duplicate
    ("a", 22 / 32, 20, 0, 30, 4),  # localisation: IoU 0.4
    ("a", 19 / 32, 40, 0, 50, 10),  # classification: on the b
    ("a", 17 / 32, 90, 0, 100, 10),  # background
    ("b", 13 / 32, 60, 0, 70, 4),  # both: IoU 0.4 with an a
    ("a", 31 / 32, 0, 86, 10, 96),  # background: two fifths of it lie on the crowd
    ("a", 30 / 32, 5, 55, 15, 65),  # on the crowd
    ("b", 30 / 32, 50, 50, 90, 80),  # on the difficult one
]
BY_HAND = {IMAGE: (OBJECTS, DETECTIONS), FIRST: ([], []), OTHER: ([], [])}


def analysis_of(case, iou_type="bbox", **options):
    return analyze(
        case.ground_truth, case.predictions.items(), case.class_names, iou_type, **options
    )


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_every_kind_of_error_is_counted_and_costs_what_it_does_by_hand(make_by_hand, iou_type):
    # By score: false, hit, 4 false; 1 of 3 objects: precision 1/2 at 34 of the 101 recalls. b: 0.
    errors = analysis_of(make_by_hand(BY_HAND), iou_type).errors
    assert errors.ap == pytest.approx(34 / 101 / 2 / 2)
    kinds = {
        "classification": ErrorKind(1, 1 / 2),  # of b, whose only object it finds
        "localisation": ErrorKind(1, (67 - 34) / 101 / 2 / 2),  # 2 of 3, still at precision 1/2
        "both": ErrorKind(1, 0),
        "duplicate": ErrorKind(1, 0),  # behind the last hit
        "background": ErrorKind(2, 34 / 101 * (1 - 1 / 2) / 2),  # one before the hit
        "missed": ErrorKind(1, (51 - 34) / 101 / 2 / 2),  # 1 of 2
    }
    assert list(errors.kinds) == list(kinds)
    for name, kind in kinds.items():
        assert errors.kinds[name].count == kind.count, name
        assert errors.kinds[name].ap_cost == pytest.approx(kind.ap_cost, abs=1e-12), name
    assert errors.false_positives_cost == pytest.approx(34 / 101 * (1 - 1 / 2) / 2)


def test_classes_without_a_hit_are_named_as_their_missed_objects_cost_nothing(make_by_hand):
    objects = [("a", 0, 0, 10, 10, ""), ("a", 20, 0, 30, 10, ""), ("b", 40, 0, 50, 10, "")]
    found = analysis_of(make_by_hand({1: (objects, [HIT])}, ("a", "b", "c")))
    assert found.errors.classes_not_found == ("b",)
    assert found.errors.kinds["missed"].count == 2
    assert found.errors.missed_cost == pytest.approx((1 - 51 / 101) / 2)  # of the a alone
    assert "  not one object is found, and so no cost of missing shown, of: b" in found.table()


def test_of_two_boxes_that_are_badly_placed_on_one_object_one_is_corrected(make_by_hand):
    objects = [("a", 0, 0, 10, 10, ""), ("a", 50, 50, 60, 60, "")]
    detections = [("a", 0.9, 0, 0, 10, 4), ("a", 0.8, 0, 0, 4, 10)]
    errors = analysis_of(make_by_hand({1: (objects, detections)})).errors
    assert errors.kinds["localisation"].count == 2
    assert errors.kinds["localisation"].ap_cost == pytest.approx(51 / 101)  # 1 of 2 objects


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_the_confusion_matrix_is_that_by_hand(make_by_hand, iou_type):
    confusion = analysis_of(make_by_hand(BY_HAND), iou_type, score_threshold=0.5).confusion
    # the data set has b's id before a's
    assert confusion.class_names == ("b", "a")
    assert confusion.counts == (
        (0, 1, 0),  # the b is found as an a
        (0, 1, 2),
        (0, 4, 0),  # the worse one, the duplicate, and two on nothing; none on crowd or difficult
    )


def test_detections_below_the_score_threshold_are_not_in_the_matrix(make_by_hand):
    confusion = analysis_of(make_by_hand(BY_HAND), score_threshold=29 / 32).confusion
    assert confusion.counts == ((0, 0, 1), (0, 1, 2), (0, 1, 0))


def test_more_than_a_hundred_detections_of_several_classes_are_all_in_the_matrix(make_by_hand):
    detections = [(name, 0.9, 0, 0, 10, 10) for name in "ab" for _ in range(80)]
    confusion = analysis_of(make_by_hand({1: ([], detections)})).confusion
    assert confusion.counts == ((0, 0, 0), (0, 0, 0), (80, 80, 0))
    # of a class a hundred count, as in the scores
    confusion = analysis_of(make_by_hand({1: ([], [("a", 0.9, 0, 0, 10, 10)] * 130)})).confusion
    assert confusion.counts[2] == (0, 100, 0)


def test_calibration_is_that_by_hand_of_the_counted_detections(make_by_hand):
    calibration = analysis_of(make_by_hand(BY_HAND)).calibration
    assert [each.count for each in calibration.bins] == [0, 0, 0, 0, 1, 2, 1, 0, 1, 2]
    last = calibration.bins[9]
    assert (last.low, last.high, last.mean_score, last.precision) == (0.9, 1, 30 / 32, 1 / 2)
    assert calibration.bins[0].mean_score is None
    off = [2 * (30 / 32 - 1 / 2), 26 / 32, 22 / 32, 19 / 32 + 17 / 32, 13 / 32]
    assert calibration.expected_error == pytest.approx(sum(off) / 7)
    assert calibration.largest_error == pytest.approx(26 / 32)
    assert calibration.per_class["b"] == pytest.approx(13 / 32)


def test_curves_are_those_by_hand_with_the_score_of_each_recall(make_by_hand):
    curves = {(e.class_name, e.iou): e for e in analysis_of(make_by_hand(BY_HAND)).curves}
    assert list(curves)[:3] == [(None, 0.5), (None, 0.75), (None, None)]
    of_a = curves["a", 0.5]
    assert of_a.precision == (0.5,) * 34 + (0.0,) * 67
    # recall 0 is reached by the first detection, though it is no hit
    assert of_a.scores == (31 / 32, *[29 / 32] * 33, *[None] * 67)
    assert curves[None, 0.5].precision == (0.25,) * 34 + (0.0,) * 67
    assert curves[None, None].scores is None
    assert len(RECALLS) == len(of_a.precision)


def test_the_mean_of_a_curve_is_its_class_s_ap(make_case):
    found = analysis_of(make_case(1))
    for curve in found.curves:
        if curve.iou is None and curve.class_name is not None:
            ap = found.scores.per_class["bbox"][curve.class_name]
            assert np.mean(curve.precision) == pytest.approx(ap)


def test_a_class_without_objects_has_no_curve(make_by_hand):
    case = make_by_hand({1: ([("a", 0, 0, 10, 10, "")], [HIT, ("b", 0.5, 0, 0, 5, 5)])})
    assert {each.class_name for each in analysis_of(case).curves} == {None, "a"}


def test_the_worst_images_stand_first_with_what_is_wrong_in_them(make_by_hand):
    good = [("a", 0, 0, 10, 10, "")]
    case = make_by_hand(
        {
            3: (good, [HIT]),
            FIRST: ([("b", 0, 0, 10, 10, "")], [HIT, ("a", 0.75, 50, 50, 60, 60)]),
            IMAGE: (good, [HIT, ("a", 0.25, 50, 50, 60, 60)]),
            OTHER: (good, [HIT, ("a", 0.75, 0, 0, 10, 9)]),
        }
    )
    worst, second = analysis_of(case).worst_images
    assert (worst.image_id, worst.file_name) == (FIRST, f"{FIRST}.jpg")
    assert (worst.found, worst.missed, worst.false_positives) == (0, 1, 2)
    assert (worst.other_class, worst.on_nothing, worst.f1) == (1, 1, 0)
    assert (second.image_id, second.found, second.missed, second.false_positives) == (12, 1, 0, 1)
    assert (second.other_class, second.on_nothing) == (0, 0)
    assert second.f1 == pytest.approx(2 / 3)
    assert analysis_of(case, num_images=1).worst_images == (worst,)
    # from a lower score on, the image with the weak false positive has an error too
    images = analysis_of(case, score_threshold=0.25).worst_images
    assert [each.image_id for each in images] == [FIRST, OTHER, IMAGE]


def test_crowds_and_difficult_ones_make_no_image_bad(make_by_hand):
    detections = [("a", 0.9, 5, 55, 15, 65), ("b", 0.9, 50, 50, 90, 80)]
    assert analysis_of(make_by_hand({1: (OBJECTS[4:], detections)})).worst_images == ()


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32 - 1), iou_type=st.sampled_from(["bbox", "segm"]))
def test_the_analyses_agree_with_the_scores_and_with_each_other(make_case, seed, iou_type):
    case = make_case(seed)
    found = analysis_of(case, iou_type, score_threshold=0)
    assert found.scores == evaluate(
        case.ground_truth, case.predictions.items(), case.class_names, (iou_type,)
    )
    truth = case.ground_truth
    is_object = ~(truth.is_crowd | truth.is_difficult)
    for name, row in zip(found.confusion.class_names, found.confusion.counts, strict=False):
        of_class = truth.category_ids == truth.categories.ids[truth.categories.names.index(name)]
        assert sum(row) == int((of_class & is_object).sum())
    if found.errors is None:
        assert not is_object.any()
        return
    assert found.errors.ap == found.scores.metrics[iou_type]["AP50"]
    of_detections = sum(k.count for n, k in found.errors.kinds.items() if n != "missed")
    assert of_detections == sum(each.false_positives for each in found.worst_images)
    columns = np.array(found.confusion.counts)[:, :-1]
    if found.calibration is not None:
        assert columns.sum() == sum(each.count for each in found.calibration.bins)


def test_the_order_of_the_predictions_changes_nothing(case):
    backwards = dict(reversed(case.predictions.items()))
    assert analysis_of(replace(case, predictions=backwards)) == analysis_of(case)


def test_an_iou_threshold_that_the_scores_do_not_have_is_taken_as_it_is(make_by_hand):
    # hotcoco takes the nearest of its thresholds: 0.5, at which the box of IoU 0.4 is wrong, and
    # the one that lies on the crowd by two fifths counts
    errors = analysis_of(make_by_hand(BY_HAND), iou_threshold=0.4).errors
    assert errors.kinds["localisation"].count == 0
    assert errors.ap == pytest.approx((34 + 33 * 2 / 3) / 101 / 2)


def test_of_keypoints_what_would_be_measured_by_boxes_is_left_out_with_the_reason(
    make_case, with_keypoints
):
    found = analysis_of(with_keypoints(make_case(7), 1), "keypoints")
    assert (found.errors, found.confusion) == (None, None)
    assert "hotcoco measures overlaps by boxes" in found.reasons["errors"]
    assert {each.on_nothing for each in found.worst_images} == {None}
    assert found.calibration is not None
    assert "confusion: n/a, between classes" in found.table()


def test_without_objects_or_detections_there_is_no_number_but_a_reason(make_by_hand):
    nothing = analysis_of(make_by_hand({1: ([], []), 2: ([], [])}))
    assert (nothing.errors, nothing.calibration, nothing.curves) == (None, None, ())
    assert nothing.reasons == {
        "errors": "no object is to be found, so that there is no AP",
        "calibration": "no detection is counted",
    }
    assert "errors: n/a, no object is to be found" in nothing.table()


def test_scores_that_are_no_probabilities_are_not_calibrated(make_by_hand):
    case = make_by_hand({1: (OBJECTS[:1], [("a", 2.5, 0, 0, 10, 10)])})
    found = analysis_of(case)
    assert found.calibration is None
    assert found.reasons["calibration"] == "the scores are no probabilities: they are 2.5 to 2.5"


def test_classes_of_one_side_only_are_left_out_as_in_the_scores(make_by_hand):
    case = make_by_hand(BY_HAND)
    found = analysis_of(replace(case, class_names=("a", "another")))
    assert found.confusion.class_names == ("a",)
    # the b is no object then, and the detection on it lies on nothing
    assert found.errors.kinds["classification"].count == 0
    assert found.errors.kinds["background"].count == 3


def test_the_options_of_the_scores_are_those_of_the_analysis(make_by_hand):
    options = ScoringOptions(iou_thresholds=(0.3,), max_detections=(1,))
    found = analysis_of(make_by_hand(BY_HAND), options=options)
    assert set(found.scores.metrics["bbox"]) == {"AP", "APs", "APm", "APl", "AR1"} | {"ARs"} | {
        "ARm",
        "ARl",
    }
    assert {each.iou for each in found.curves} == {None}
    assert sum(each.count for each in found.calibration.bins) == 1


def test_an_analysis_is_plain_json(case):
    found = analysis_of(case)
    back = orjson.loads(orjson.dumps(found.to_json()))
    assert back["errors"]["kinds"]["missed"]["count"] == found.errors.kinds["missed"].count
    assert back["scores"]["metrics"] == found.scores.metrics
    assert len(back["recalls"]) == 101


def test_the_table_has_every_part_in_percent(make_by_hand):
    table = analysis_of(make_by_hand(BY_HAND)).table()
    for line in (
        "  AP is 8.4            errors  cost AP",
        "  classification            1     50.0",
        "  truth \\ found as  b  a  background",
        "  a                 0  1           2",
        "  IoU 0.50         25.0  25.0  25.0  25.0  0.0  0.0  0.0  0.0  0.0  0.0  0.0",
        "  0.9 to 1.0           2        93.8      50.0",
    ):
        assert line in table.splitlines()


def test_of_many_classes_the_table_has_the_most_frequent_confusions(make_by_hand):
    names = tuple(f"a class {k}" for k in range(12))
    objects = [("a class 3", 0, 0, 10, 10, ""), ("a class 4", 20, 0, 30, 10, "")]
    detections = [("a class 5", 0.9, 0, 0, 10, 10), ("a class 4", 0.9, 20, 0, 30, 10)]
    table = analysis_of(make_by_hand({1: (objects, detections)}, names)).table()
    assert "  truth       found as  count\n  a class 3  a class 5      1" in table


@pytest.mark.parametrize("thresholds", [(0.1, 0.1), (0, 0.5), (0.1, 1.5)])
def test_thresholds_that_mean_nothing_are_refused(case, thresholds):
    background, iou = thresholds
    with pytest.raises(ValueError, match="must be ascending"):
        analysis_of(case, background_threshold=background, iou_threshold=iou)


def test_what_cannot_be_scored_cannot_be_analysed(case):
    spoiled = {
        image_id: replace(each, scores=torch.full((len(each),), float("nan")))
        for image_id, each in case.predictions.items()
    }
    with pytest.raises(ValueError, match="not a number"):
        analysis_of(replace(case, predictions=spoiled))

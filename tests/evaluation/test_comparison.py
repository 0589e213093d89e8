"""Differences of two runs: the points are the scores', the intervals those of images drawn anew."""

import re
from dataclasses import replace

import numpy as np
import orjson
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detengine.evaluation.bootstrap import class_by_class, draw
from detengine.evaluation.coco_metrics import mean
from detengine.evaluation.collected import collect
from detengine.evaluation.comparison import Difference, compare
from detengine.evaluation.evaluate import evaluate
from detengine.structures.ground_truth import PackedBytes
from detengine.structures.prediction import Prediction

OBJECT = [("a", 0, 0, 10, 10, "")]
FOUND = [("a", 0.75, 0, 0, 10, 10)]


def compared(a, b, **options):
    return compare(
        a.ground_truth,
        a.predictions.items(),
        b.predictions.items(),
        a.class_names,
        b.class_names,
        **options,
    )


def worse(case, share=0.5):
    """The same run, without a share of its detections."""
    generator = np.random.default_rng(0)
    predictions = {}
    for image_id, each in case.predictions.items():
        kept = np.flatnonzero(generator.random(len(each)) >= share)
        predictions[image_id] = Prediction(
            boxes_xyxy=each.boxes_xyxy[kept],
            scores=each.scores[kept],
            labels=each.labels[kept],
            size=each.size,
            rles=[each.rles[k] for k in kept],
            keypoints=None if each.keypoints is None else each.keypoints[kept],
        )
    return replace(case, predictions=predictions)


def repeated(case, counts):
    """The data set in which each image, in the order of ids, stands as often as `counts` says."""
    truth = case.ground_truth
    order = torch.argsort(truth.image_ids).tolist()
    images = [index for index, n in zip(order, counts, strict=True) for _ in range(int(n))]
    rows = [row for n in images for row in range(*truth.annotations_of(n).indices(10**9))]
    lengths = [truth.annotations_of(n).stop - truth.annotations_of(n).start for n in images]
    columns = ("category_ids", "boxes_xywh", "areas", "is_crowd", "is_difficult")
    many = replace(
        truth,
        image_ids=torch.arange(len(images)),
        image_sizes=truth.image_sizes[images],
        file_names=PackedBytes.from_list([f"{n}.jpg".encode() for n in range(len(images))]),
        offsets=torch.tensor([0, *lengths]).cumsum(0),
        annotation_ids=torch.arange(1, len(rows) + 1),
        masks=PackedBytes.from_list([truth.masks[row] for row in rows]),
        **{name: getattr(truth, name)[rows] for name in columns},
    )
    ids = truth.image_ids.tolist()
    predictions = {n: case.predictions[ids[index]] for n, index in enumerate(images)}
    return replace(case, ground_truth=many, predictions=predictions)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**32 - 1),
    iou_type=st.sampled_from(["bbox", "segm"]),
    counts=st.lists(st.integers(0, 3), min_size=6, max_size=6),
)
def test_a_sample_is_scored_as_the_data_set_in_which_its_images_stand_that_often(
    make_case, seed, iou_type, counts
):
    case = make_case(seed, quantum=1e-6)  # no two equal scores, which repetition would reorder
    collected, _ = collect(case.ground_truth, case.predictions.items(), case.class_names, iou_type)
    classes = list(range(len(collected.truth.categories)))
    ap = np.stack(list(class_by_class(collected, classes, np.array(counts, float)[:, None])))
    ap = np.where(np.isnan(ap), -1, ap)[..., 0]
    if not any(counts):
        assert (ap == -1).all()
        return
    many = repeated(case, counts)
    expected = evaluate(
        many.ground_truth, many.predictions.items(), many.class_names, (iou_type,)
    ).metrics[iou_type]
    found = {
        "AP": ap[:, 0],
        "AP50": ap[:, 0, 0],
        "AP75": ap[:, 0, 5],
        **{f"AP{letter}": ap[:, area] for area, letter in enumerate("sml", start=1)},
    }
    for name, values in found.items():
        assert mean(values) == pytest.approx(expected[name], abs=1e-12), name


def test_each_sample_draws_as_many_images_as_there_are():
    counts = draw(7, 50, seed=3)
    assert counts.shape == (7, 50)
    assert (counts.sum(axis=0) == 7).all()
    assert np.array_equal(counts, draw(7, 50, seed=3))
    assert not np.array_equal(counts, draw(7, 50, seed=4))


def test_an_interval_is_that_by_hand(make_by_hand):
    # B finds one of two objects: AP 51 / 101. Samples are of 2, 1 and 0 found objects, the image
    # being drawn twice, once or not at all: in a quarter, a half and a quarter of the cases.
    a = make_by_hand({1: (OBJECT, FOUND), 2: (OBJECT, FOUND)})
    b = make_by_hand({1: (OBJECT, FOUND), 2: (OBJECT, [])})
    points = 51 / 101 - 1
    found = compared(a, b, confidence=0.9).metrics["AP"]
    assert (found.a, found.b, found.difference) == pytest.approx((1, 51 / 101, points))
    assert (found.low, found.high) == pytest.approx((-1, 0))
    assert found.contains_zero is True
    found = compared(a, b, confidence=0.3).metrics["AP"]
    assert (found.low, found.high) == pytest.approx((points, points))
    assert found.contains_zero is False


def test_an_interval_is_as_wide_as_that_of_a_proportion(make_by_hand):
    # hotcoco.compare's, whose samples count an image once, is three quarters of it
    a = make_by_hand(dict.fromkeys(range(100), (OBJECT, FOUND)))
    b = make_by_hand({n: (OBJECT, FOUND if n % 2 else []) for n in range(100)})
    found = compared(a, b).metrics["AP50"]
    assert found.high - found.low == pytest.approx(2 * 1.96 * (0.5 * 0.5 / 100) ** 0.5, rel=0.1)


@pytest.mark.parametrize("iou_type", ["bbox", "segm", "keypoints"])
def test_the_points_are_the_scores_to_the_last_bit(make_case, with_keypoints, iou_type):
    a = with_keypoints(make_case(7, images=8), 1)
    b = worse(a)
    found = compared(a, b, iou_type=iou_type, samples=20)
    for run, letter in ((a, "a"), (b, "b")):
        scores = evaluate(run.ground_truth, run.predictions.items(), run.class_names, (iou_type,))
        for name, difference in found.metrics.items():
            expected = scores.metrics[iou_type][name]
            assert expected == (-1 if difference is None else getattr(difference, letter))
        for name, difference in found.per_class.items():
            expected = scores.per_class[iou_type][name]
            assert expected == (-1 if difference is None else getattr(difference, letter))
    assert found.metrics["AP"].low <= found.metrics["AP"].difference <= found.metrics["AP"].high


def test_a_run_does_not_differ_from_itself(case):
    found = compared(case, case, samples=30)
    for each in (*found.metrics.values(), *found.per_class.values()):
        assert each is None or (each.difference, each.low, each.high) == (0, 0, 0)
        assert each is None or each.contains_zero


def test_the_seed_alone_decides_the_samples(make_case):
    case = make_case(7, images=8)
    backwards = replace(case, predictions=dict(reversed(case.predictions.items())))
    found = compared(case, worse(case), samples=40)
    assert compared(backwards, worse(case), samples=40) == found
    assert compared(case, worse(case), samples=40, seed=1) != found


def test_only_classes_that_both_runs_know_are_compared_and_it_is_said(make_by_hand):
    images = {
        n: ([*OBJECT, ("b", 20, 20, 40, 40, "")], [*FOUND, ("b", 0.5, 20, 20, 40, 40)])
        for n in range(2)
    }
    a = make_by_hand(images)
    b = replace(a, class_names=("a", "something else"))
    found = compared(a, b, samples=10)
    assert list(found.per_class) == ["a"]
    one = found.metrics["AP"].a
    assert one == pytest.approx(1)
    assert found.metrics["AP"] == Difference(one, one, 0, 0, 0, True)
    assert (found.only_a, found.only_b) == (("b",), ())
    assert "only A knows, and not compared: b" in found.table()
    with pytest.raises(ValueError, match="no class of the data set in common: A has a; B has b"):
        compared(replace(a, class_names=("a", "x")), replace(a, class_names=("x", "b")), samples=10)


def test_classes_are_paired_by_name_whatever_the_order_of_the_labels(make_by_hand):
    images = {1: ([*OBJECT, ("b", 20, 20, 40, 40, "")], FOUND)}
    a = make_by_hand(images)
    swapped = {
        image_id: replace(each, labels=3 - each.labels) for image_id, each in a.predictions.items()
    }
    b = replace(a, class_names=("b", "a"), predictions=swapped)
    found = compared(a, b, samples=5)
    assert found.per_class["a"].difference == found.per_class["b"].difference == 0
    assert found.per_class["a"].b == pytest.approx(1)


def test_runs_over_other_images_are_refused_and_the_run_is_named(case):
    fewer = replace(case, predictions=dict(list(case.predictions.items())[:-1]))
    missing = list(case.predictions)[-1]
    with pytest.raises(ValueError, match=rf"^predictions B: .*{missing}"):
        compared(case, fewer)
    with pytest.raises(ValueError, match=r"^predictions A: "):
        compared(fewer, case)


@pytest.mark.parametrize(
    "wrong", [{"samples": 0}, {"samples": 10**12}, {"confidence": 1}, {"confidence": 0}]
)
def test_intervals_that_cannot_be_are_refused(case, wrong):
    with pytest.raises(ValueError, match="expected 1 to 100000, and a share between 0 and 1"):
        compared(case, case, **wrong)


def test_where_there_is_nothing_to_score_there_is_no_difference(make_by_hand):
    a = make_by_hand({1: (OBJECT, FOUND)})
    found = compared(a, a, samples=3)
    assert found.metrics["APl"] is None
    assert found.per_class["b"] is None
    assert "APl     n/a    n/a    n/a" in found.table()


def test_the_table_gives_points_with_intervals_and_marks_what_is_certain(make_by_hand):
    a = make_by_hand(dict.fromkeys(range(20), (OBJECT, FOUND)))
    b = make_by_hand({n: (OBJECT, FOUND if n % 2 else []) for n in range(20)})
    table = compared(a, b, samples=100).table()
    assert table.startswith(
        "bbox, 20 images: B - A in points, intervals of 95 % over 100 samples of the images"
    )
    assert re.search(r"\nAP    100\.0  50\.5  -49\.5  \[-\d\d\.\d, -\d\d\.\d\]  \*\n", table)


def test_a_comparison_is_plain_json(case):
    found = compared(case, worse(case), samples=5)
    back = orjson.loads(orjson.dumps(found.to_json()))
    assert back["metrics"]["AP"]["contains_zero"] == found.metrics["AP"].contains_zero
    assert back["metrics"]["AP"]["difference"] == found.metrics["AP"].difference
    assert (back["samples"], back["seed"], back["confidence"]) == (5, 0, 0.95)


def test_of_very_many_classes_those_that_differ_most_are_shown(case):
    few = compared(case, case, samples=5)
    per_class = {
        f"c{k:03}": Difference(0.5, 0.5 + k / 500, k / 500, 0.0, 1.0, True) for k in range(200)
    }
    per_class["c000"] = None
    lines = replace(few, per_class=per_class).table().splitlines()
    at = lines.index("the 100 of 200 classes that differ most; all in comparison.json:")
    shown = [line.split()[0] for line in lines[at + 2 :]]
    assert shown == [f"c{k:03}" for k in range(199, 99, -1)]

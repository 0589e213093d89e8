import json

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detengine.data.coco import load_coco
from detengine.evaluation.coco_results import CocoResults, write_coco_results
from detengine.evaluation.evaluate import evaluate
from detengine.evaluation.evaluator import Evaluator
from detengine.evaluation.predictions_file import PredictionWriter
from detengine.evaluation.truth import Truth
from detengine.structures.rle import decode_counts

BOTH = ("bbox", "segm")
with_fixture = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _score(case, path, iou_types):
    found = CocoResults(path)
    found.raise_if_foreign(case.ground_truth)
    names = case.ground_truth.categories.names
    evaluator = Evaluator(case.ground_truth, names, iou_types)
    for image_id, detections in found.detections(Truth(case.ground_truth, names), iou_types):
        evaluator.update(image_id, detections)
    return evaluator.result()


def _plain(entry):
    if "segmentation" in entry:
        mask = entry["segmentation"]
        return {**entry, "segmentation": {**mask, "counts": mask["counts"].decode()}}
    return entry


@with_fixture
@given(seed=st.integers(0, 2**32 - 1))
def test_numbers_of_any_precision_are_scored_as_by_pycocotools(make_case, tmp_path, seed):
    case = make_case(seed, images=5)
    rng = np.random.default_rng(seed)
    for iou_type in BOTH:
        entries = case.coco_results(iou_type)
        for entry in entries:
            entry["score"] = float(rng.random())
            if "bbox" in entry:
                entry["bbox"] = [float(each) + rng.random() / 7 for each in entry["bbox"]]
        rng.shuffle(entries)
        path = tmp_path / f"{iou_type}.json"
        path.write_bytes(orjson.dumps([_plain(entry) for entry in entries]))
        metrics, _ = case.reference(iou_type, entries)
        assert _score(case, path, (iou_type,)).metrics[iou_type] == metrics


def test_what_is_written_is_scored_as_what_was_predicted(case, tmp_path):
    with PredictionWriter(tmp_path, case.class_names, bytes_of_a_file=300) as writer:
        for image_id, prediction in case.predictions.items():
            writer.add(image_id, prediction)
            writer.end_batch()
    write_coco_results(tmp_path, case.ground_truth.categories, case.class_names, BOTH)
    pairs = case.predictions.items()
    expected = evaluate(case.ground_truth, pairs, case.class_names, BOTH)
    for iou_type in BOTH:
        entries = json.loads((tmp_path / f"{iou_type}.json").read_text())
        assert len(entries) == sum(len(each) for each in case.predictions.values())
        result = _score(case, tmp_path / f"{iou_type}.json", (iou_type,))
        assert result.metrics[iou_type] == expected.metrics[iou_type]


def test_detections_of_classes_that_the_data_set_lacks_are_not_written(case, tmp_path):
    names = (*case.class_names[:-1], "unicorn")
    with PredictionWriter(tmp_path, names) as writer:
        for image_id, prediction in case.predictions.items():
            writer.add(image_id, prediction)
    write_coco_results(tmp_path, case.ground_truth.categories, names, ("bbox",))
    written = {entry["category_id"] for entry in json.loads((tmp_path / "bbox.json").read_text())}
    lost = case.ground_truth.categories.ids_of_labels(case.class_names)[-1]
    assert written
    assert lost not in written


def test_without_a_detection_the_file_is_an_empty_list_and_the_ap_is_0_with_a_reason(
    case, tmp_path
):
    (tmp_path / "bbox.json").write_text("[]")
    result = _score(case, tmp_path / "bbox.json", ("bbox",))
    assert result.metrics["bbox"]["AP"] == 0
    assert result.reasons == {"bbox": "AP is 0: there is not a single detection in 8 images"}
    with PredictionWriter(tmp_path, case.class_names):
        pass
    write_coco_results(tmp_path, case.ground_truth.categories, case.class_names, ("segm",))
    assert json.loads((tmp_path / "segm.json").read_text()) == []


def test_boxes_that_a_file_does_not_have_are_no_reason_for_a_score_of_0(make_case, tmp_path):
    case = make_case(0)
    size, counts = [120, 160], [0, 1, 120 * 160 - 1]
    entries = [
        {**_plain(entry), "segmentation": {"size": size, "counts": counts}}
        for entry in case.coco_results("segm")
    ]
    (tmp_path / "segm.json").write_bytes(orjson.dumps(entries))
    result = _score(case, tmp_path / "segm.json", ("segm",))
    assert "overlaps an object of its class" in result.reasons["segm"]
    assert "within one pixel" not in result.reasons["segm"]


def test_runs_may_be_uncompressed(case, tmp_path):
    entries = case.coco_results("segm")
    metrics, _ = case.reference("segm")
    for entry in entries:
        mask = entry["segmentation"]
        entry["segmentation"] = {**mask, "counts": decode_counts(mask["counts"]).tolist()}
    path = tmp_path / "segm.json"
    path.write_bytes(orjson.dumps(entries))
    assert _score(case, path, ("segm",)).metrics["segm"] == metrics


def test_the_iou_types_are_what_all_entries_have(case, tmp_path):
    path = tmp_path / "some.json"
    path.write_bytes(orjson.dumps([_plain(entry) for entry in case.coco_results("segm")]))
    assert CocoResults(path).iou_types() == ("segm",)
    with pytest.raises(ValueError, match=r"no 'bbox'; .* Score what all entries have \(--iou-ty"):
        _score(case, path, ("bbox",))
    path.write_text("[]")
    assert CocoResults(path).iou_types() == ("bbox",)


def test_keypoints_are_read_where_the_ground_truth_has_no_object(tmp_path):
    image = {"id": 1, "file_name": "1.jpg", "height": 9, "width": 9}
    person = {"id": 1, "name": "person", "keypoints": [f"joint {n}" for n in range(17)]}
    content = {"images": [image], "annotations": [], "categories": [person]}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    truth = load_coco(tmp_path / "truth.json", None, "people")
    entry = {"image_id": 1, "category_id": 1, "score": 0.5, "keypoints": [1, 2, 1] * 17}
    (tmp_path / "keypoints.json").write_text(json.dumps([entry]))
    evaluator = Evaluator(truth, ("person",), ("keypoints",))
    results = CocoResults(tmp_path / "keypoints.json")
    [found] = results.detections(Truth(truth, ("person",)), ("keypoints",))
    evaluator.update(*found)
    assert evaluator.result().metrics["keypoints"]["AP"] == -1


GOOD = {"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image_id": 999}, "1 of 1 image ids of the predictions do not exist in the ground truth"),
        ({"image_id": "1"}, "'image_id' of entry 0 must be an integer, but is '1'"),
        ({"category_id": 77}, "0 of 1 category ids of the predictions exist in the ground truth"),
        ({"category_id": True}, "'category_id' of entry 0 must be an integer"),
        ({"score": None}, "the score of entry 0 must be a number, but is None"),
        ({"score": "0.5"}, "the score of entry 0 must be a number"),
        ({"bbox": [1, 2, -3, 4]}, "entry 0 .* must not be negative; was it given as x1, y1"),
        ({"bbox": [1, 2, 3]}, "'bbox' of entry 0 must be 4 numbers"),
        ({"bbox": [1e308, 2, 1e308, 4]}, "the box of entry 0 is too large to have an end"),
        ({"bbox": [1, 2, 3, None]}, "'bbox' of entry 0 must be 4 numbers"),
    ],
)
def test_an_entry_that_cannot_be_scored_is_named(make_case, tmp_path, entry, message):
    case = make_case(0, images=2)
    ids = case.ground_truth.image_ids.tolist(), case.ground_truth.categories.ids
    good = {**GOOD, "image_id": ids[0][0], "category_id": ids[1][0]}
    path = tmp_path / "bbox.json"
    path.write_text(json.dumps([{**good, **entry}]))
    with pytest.raises(ValueError, match=rf"bbox\.json.*{message}"):
        _score(case, path, ("bbox",))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"size": [4, 5], "counts": "00"}, r"of the size \[4, 5\], but its image is of \[120, 160"),
        ({"size": [120, 160], "counts": "zz"}, r"segm\.json: the mask of entry 0 is no RLE"),
        ({"size": [120, 160], "counts": "0"}, "mask of entry 0 cover 0 pixels"),
        ({"size": [120, 160], "counts": [2**63, 5]}, r"segm\.json: .* entry 0 cover 92233720368"),
        ({"size": [120, 160], "counts": [5, 5]}, "cover 10 pixels, but its image of 120 x 160"),
        ({"size": [120, 160], "counts": [-5, 5]}, "must be lengths in pixels, but are"),
        ([[1, 2, 3, 4, 5, 6]], "'segmentation' of entry 0 must be an RLE"),
    ],
)
def test_a_mask_that_cannot_be_scored_is_named(make_case, tmp_path, mask, message):
    case = make_case(0, images=2)
    entry = {
        "image_id": case.ground_truth.image_ids[0].item(),
        "category_id": case.ground_truth.categories.ids[0],
        "score": 0.5,
        "segmentation": mask,
    }
    path = tmp_path / "segm.json"
    path.write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match=message):
        _score(case, path, ("segm",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "is no complete JSON file"),
        ('[{"score": NaN}]', "NaN and Infinity are no JSON"),
        ('{"images": []}', "holds a dict, .* Is it an annotation file"),
        ("[[1]]", "holds a list with a list in it, but COCO's result files are a list of objects"),
        ("[{}]", "entry 0 has no 'image_id'; it has nothing"),
        ('[{"score": 1}]', "entry 0 has no 'image_id'; it has score"),
    ],
)
def test_a_file_that_holds_no_results_is_refused(tmp_path, text, message):
    (tmp_path / "some.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        CocoResults(tmp_path / "some.json")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        CocoResults(tmp_path / "none.json")

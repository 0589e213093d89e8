"""What pycocotools reads from a COCO file, and how it scores it, beside ours."""

import contextlib
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detengine.evaluation.evaluate import evaluate
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.prediction import Prediction


def assert_equal_to_pycocotools(truth: GroundTruth, path: Path) -> None:
    """The file's columns, and the AP of boxes that lie a little beside the true ones."""
    reference = _reference(path)
    _assert_equal_columns(truth, reference)
    if not reference.anns or not _has_all_keys(reference):
        return
    predictions = _beside_the_truth(truth)
    results = [each for image_id, found in predictions for each in _entries(truth, image_id, found)]
    if not results:
        return
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(reference, reference.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ours = evaluate(truth, predictions, truth.categories.names).metrics["bbox"]
    assert list(ours.values())[:12] == pytest.approx(evaluation.stats.tolist(), abs=1e-12)


def _reference(path: Path) -> COCO:
    reference = COCO()
    reference.dataset = json.loads(path.read_bytes().decode("utf-8-sig"))
    with contextlib.redirect_stdout(io.StringIO()):
        reference.createIndex()
    return reference


def _has_all_keys(reference: COCO) -> bool:
    keys = {"id", "area", "iscrowd"}
    return all(keys <= {k for k in each if each[k] is not None} for each in reference.anns.values())


def _assert_equal_columns(truth: GroundTruth, reference: COCO) -> None:
    assert truth.image_ids.tolist() == list(reference.imgs)
    if not all("id" in each for each in reference.dataset["annotations"]):
        return
    assert sorted(truth.annotation_ids.tolist()) == sorted(reference.anns)
    for position, annotation_id in enumerate(truth.annotation_ids.tolist()):
        entry = reference.anns[annotation_id]
        assert truth.boxes_xywh[position].tolist() == list(map(float, entry["bbox"]))
        assert truth.category_ids[position] == entry["category_id"]
        if entry.get("area") is not None:
            assert truth.areas[position] == entry["area"]
        if _is_for_pycocotools(reference, entry) and truth.masks is not None:
            counts = reference.annToRLE(entry)["counts"]
            assert truth.masks[position] == (counts.encode() if isinstance(counts, str) else counts)


def _is_for_pycocotools(reference: COCO, entry: dict[str, Any]) -> bool:
    """It asks for sizes, and for memory by the length of an outline."""
    polygons = entry.get("segmentation") or []
    if not polygons or not {"height", "width"} <= reference.imgs[entry["image_id"]].keys():
        return False
    return isinstance(polygons, dict) or max(map(abs, itertools.chain(*polygons))) < 1e7


def _beside_the_truth(truth: GroundTruth) -> list[tuple[int, Prediction]]:
    labels = truth.categories.labels_of_ids(truth.categories.names)
    found = []
    for index, image_id in enumerate(truth.image_ids.tolist()):
        rows = truth.annotations_of(index)
        boxes = truth.boxes_xywh[rows].float()
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 2] += 0.3 * (boxes[:, 2] - boxes[:, 0])
        of_class = torch.tensor([labels[each] for each in truth.category_ids[rows].tolist()])
        scores = torch.linspace(0.9, 0.5, len(boxes))
        height, width = truth.image_sizes[index].tolist()
        found.append((image_id, Prediction(boxes, scores, (height, width), of_class.long())))
    return found


def _entries(truth: GroundTruth, image_id: int, found: Prediction) -> list[dict[str, Any]]:
    assert found.labels is not None
    ids = truth.categories.ids
    x1, y1, x2, y2 = found.boxes_xyxy.unbind(1)
    boxes = torch.stack((x1, y1, x2 - x1, y2 - y1), dim=1).tolist()
    return [
        {"image_id": image_id, "category_id": ids[label - 1], "bbox": box, "score": score}
        for box, label, score in zip(
            boxes, found.labels.tolist(), found.scores.tolist(), strict=True
        )
    ]

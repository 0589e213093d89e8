"""COCO's results and described ones: scored, or refused."""

import json
from pathlib import Path
from random import Random
from typing import Any

from driver import Target, fuzz, instrumented, outcome
from mutation import mutated_json

with instrumented():
    from detengine.evaluation.coco_results import CocoResults
    from detengine.evaluation.evaluate import evaluate
    from detengine.evaluation.truth import Truth

from small_truth import CLASSES, OPTIONS, small_truth

NAMES = (
    "image_id", "category_id", "bbox", "score", "segmentation", "keypoints", "size", "counts",
    "annotations", "images", "categories", "id", "name", "file_name", "width", "height",
)  # fmt: skip
ENTRY = {"image_id": 3, "category_id": 20, "bbox": [1, 2, 4, 4], "score": 0.9}


def seeds() -> list[bytes]:
    runs = {"size": [12, 10], "counts": [20, 30, 70]}
    text = {"size": [12, 10], "counts": "d0n0V2"}
    described = {
        "annotations": [{**ENTRY, "image_id": 1, "category_id": 2}],
        "images": [{"id": 1, "file_name": "x/1.png", "width": 10, "height": 12}],
        "categories": [{"id": 2, "name": "dog"}],
    }
    files: list[Any] = [
        [ENTRY, {**ENTRY, "category_id": 4, "score": 1}],
        [{**ENTRY, "segmentation": runs}, {**ENTRY, "segmentation": text}],
        [{**ENTRY, "keypoints": [1, 2, 2, 3, 4, 0.5]}],
        [],
        described,
    ]
    return [json.dumps(each).encode() for each in files]


def check(data: bytes, folder: Path) -> None:
    path = folder / "results.json"
    path.write_bytes(data)
    truth = small_truth()
    results = outcome(lambda: CocoResults(path, truth), path.name)
    if results is None:
        return
    is_known = outcome(lambda: results.raise_if_foreign(truth) or True, path.name)
    results.iou_types()
    if not is_known:
        return
    for iou_type in ("bbox", "segm", "keypoints"):
        _check_type(results, path, iou_type)


def _check_type(results: CocoResults, path: Path, iou_type: str) -> None:
    truth = small_truth()
    seen = Truth(truth, CLASSES)
    pairs = outcome(lambda: list(results.detections(seen, (iou_type,))), path.name)
    if pairs is not None:
        assert sorted(image_id for image_id, _ in pairs) == [3, 8]
        result = evaluate(truth, pairs, CLASSES, (iou_type,), options=OPTIONS)
        assert all(-1 <= each <= 1 for each in result.metrics[iou_type].values())


def mutate(data: bytes, generator: Random) -> bytes:
    return mutated_json(data, generator, NAMES)


TARGET = Target("results", seeds, check, mutate)

if __name__ == "__main__":
    fuzz(TARGET)

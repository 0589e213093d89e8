"""LVIS's json: COCO's, and what is known of classes that are not annotated."""

import json
from pathlib import Path
from random import Random
from typing import Any

from driver import Target, fuzz, instrumented, outcome
from mutation import mutated_json
from PIL import Image

with instrumented():
    from detengine.data.lvis import load_coco_or_lvis, load_lvis

from truth import raise_if_impossible

NAMES = (
    "images", "annotations", "categories", "id", "image_id", "category_id", "file_name", "height",
    "width", "bbox", "area", "segmentation", "name", "frequency", "neg_category_ids", "coco_url",
    "not_exhaustive_category_ids",
)  # fmt: skip
IMAGE = {
    "id": 3,
    "coco_url": "http://images.cocodataset.org/train2017/1.png",
    "height": 12,
    "width": 10,
    "neg_category_ids": [4],
    "not_exhaustive_category_ids": [20],
}
BOX = {"id": 5, "image_id": 3, "category_id": 20, "bbox": [1, 2, 3.5, 4], "area": 14.0}
OUTLINE = [[1, 1, 9, 1, 9, 9]]


def seeds() -> list[bytes]:
    categories = [
        {"id": 20, "name": "cat", "frequency": "r"},
        {"id": 4, "name": "dog", "frequency": "f"},
    ]
    images: tuple[list[Any], ...] = ([IMAGE], [{**IMAGE, "file_name": "1.png"}])
    annotations: tuple[list[Any], ...] = ([{**BOX, "segmentation": OUTLINE}], [BOX])
    return [
        json.dumps({"images": each, "annotations": boxes, "categories": categories}).encode()
        for each, boxes in zip(images, annotations, strict=True)
    ]


def check(data: bytes, folder: Path) -> None:
    path = folder / "file.json"
    (folder / "train2017").mkdir(exist_ok=True)
    for name in ("1.png", "train2017/1.png"):
        if not (folder / name).exists():
            Image.new("L", (10, 12)).save(folder / name)
    path.write_bytes(data)
    for read in (
        lambda: load_lvis(path, folder, "a"),
        lambda: load_lvis(path, None, "a"),
        lambda: load_coco_or_lvis(path, "a"),
    ):
        truth = outcome(read, str(folder))
        if truth is not None:
            raise_if_impossible(truth)
            known = set(truth.categories.ids)
            for index in range(len(truth) if truth.federated else 0):
                assert truth.federated is not None
                assert set(truth.federated.negative_ids(index)) <= known
                assert set(truth.federated.not_exhaustive_ids(index)) <= known


def mutate(data: bytes, generator: Random) -> bytes:
    return mutated_json(data, generator, NAMES)


TARGET = Target("lvis", seeds, check, mutate)

if __name__ == "__main__":
    fuzz(TARGET)

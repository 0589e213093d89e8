"""COCO's json: read typed, in cut pieces and object by object, all alike, and salvaged."""

import json
import os
import re
from pathlib import Path
from random import Random
from typing import Any

from driver import Target, fuzz, instrumented, outcome
from mutation import mutated_json
from PIL import Image

with instrumented():
    from detengine.data import coco, coco_file
    from detengine.data.annotations import pack_columns
    from detengine.data.coco_objects import ObjectReader
    from detengine.data.salvage_coco import salvage_coco
    from detengine.structures.ground_truth import GroundTruth

from truth import check_salvage, raise_if_impossible

NAMES = (
    "images", "annotations", "categories", "id", "image_id", "category_id", "file_name", "height",
    "width", "bbox", "area", "iscrowd", "segmentation", "size", "counts", "keypoints",
    "num_keypoints", "name", "skeleton", "supercategory", "score",
)  # fmt: skip
ENDLESS = re.compile(rb"[0-9]{300}|[eE][+]?[0-9]{3}")
"""Of what may be beyond a double."""
BOX = {"id": 5, "image_id": 3, "category_id": 20, "bbox": [1, 2, 3.5, 4], "area": 14.0}


def seeds() -> list[bytes]:
    outline = [[1, 1, 9, 1, 9, 9]]
    runs = {"size": [12, 10], "counts": [20, 30, 70]}
    text = {"size": [12, 10], "counts": "d0n0V2"}
    points = [1, 2, 2, 3, 4, 0]
    named = [{"id": 20, "name": "cat", "keypoints": ["nose", "tail"], "skeleton": [[1, 2]]}]
    return [
        _file([BOX, {**BOX, "id": 6, "segmentation": outline}]),
        _file([{**BOX, "segmentation": runs, "id": 6}, {**BOX, "segmentation": text}]),
        _file([{**BOX, "keypoints": points, "num_keypoints": 1}, {**BOX, "id": 7, "iscrowd": 0}]),
        _file([{**BOX, "keypoints": points}], categories=named),
        _file([{key: BOX[key] for key in ("image_id", "category_id", "bbox")}]),
        _file([]),
    ]  # fmt: skip


def _file(annotations: list[Any], **more: Any) -> bytes:
    content = {
        "images": [
            {"id": 3, "file_name": "1.png", "height": 12, "width": 10},
            {"id": 8, "file_name": "2.png"},
        ],
        "annotations": annotations,
        "categories": [{"id": 20, "name": "cat"}, {"id": 4, "name": "dog"}],
    }
    return json.dumps({**content, **more}).encode()


def check(data: bytes, folder: Path) -> None:
    path = folder / "file.json"
    for name in ("1.png", "2.png"):
        if not (folder / name).exists():
            Image.new("L", (10, 12)).save(folder / name)
    path.write_bytes(data)
    whole = outcome(lambda: coco.load_coco(path, folder, "a"), str(path.parent))
    if whole is not None:
        raise_if_impossible(whole)
    in_pieces = outcome(lambda: _in_pieces(path, folder), str(path.parent))
    one_by_one = outcome(lambda: _one_by_one(path, folder), str(path.parent))
    digests = [None if each is None else each.digest() for each in (whole, in_pieces, one_by_one)]
    if ENDLESS.search(
        data
    ):  # in a key that is not read; only where the file is read whole it counts
        digests = [each for each in digests if each is not None]
    assert len(set(digests)) <= 1, f"the readers disagree: {digests}"
    check_salvage(
        whole,
        lambda problems: salvage_coco(path, folder, "a", problems),
        str(folder),
        lambda left: _first_is_missing(folder, left),
    )


def _in_pieces(path: Path, folder: Path) -> GroundTruth:
    """As a file is read that is large enough to be cut."""
    kept = coco_file._WORTH_CUTTING, coco_file._CHUNK_BYTES, coco_file._CHUNK
    coco_file._WORTH_CUTTING, coco_file._CHUNK_BYTES, coco_file._CHUNK = 0, 30, 1
    try:
        return coco.load_coco(path, folder, "a")
    finally:
        coco_file._WORTH_CUTTING, coco_file._CHUNK_BYTES, coco_file._CHUNK = kept


def _one_by_one(path: Path, folder: Path) -> GroundTruth:
    """By nothing but the reader that says what is wrong."""
    file = coco_file.read_json(path, "a")
    categories, names = coco._read_categories(path, file.categories)
    found = coco._read_images(path, folder, file.images)
    reader = ObjectReader(file, categories, found, len(names))
    parts = [reader.read_chunk(number, 0) for number in range(len(file.chunks))]
    return pack_columns(path, categories, found, parts, names)


def _first_is_missing(folder: Path, left: GroundTruth) -> bool:
    """Salvage looks at no image whose size it knows: the doctor does that."""
    name = left.file_name(0) if len(left) else ""
    return bool(name) and not os.path.isfile(folder / name)  # noqa: PTH113  (of any length)


def mutate(data: bytes, generator: Random) -> bytes:
    return mutated_json(data, generator, NAMES)


TARGET = Target("coco", seeds, check, mutate)

if __name__ == "__main__":
    fuzz(TARGET)

"""LVIS's and Cityscapes' files with one thing broken."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from faults.broken_inputs import (
    GONE,
    Break,
    Case,
    Harmless,
    Promise,
    Refused,
    annotation,
    change_json,
    write,
)
from faults.sound_inputs import CAR

POLYGONS = "g/train/x/a_gtFine_polygons.json"
IDS = "g/train/x/a_gtFine_instanceIds.png"


def _lvis() -> Iterator[Case]:
    given: list[tuple[str, Break, Promise]] = [
        ("no neg_category_ids", change_json("images", 1, neg_category_ids=GONE),
         Refused(r"image 2 has no 'neg_category_ids'")),
        ("neg_category_ids null", change_json("images", 1, neg_category_ids=None),
         Refused(r"'neg_category_ids' of image 2 must be a list")),
        ("neg_category_ids texts", change_json("images", 1, neg_category_ids=["3"]),
         Refused(r"'neg_category_ids' of image 2 must be a list")),
        ("neg_category_ids booleans", change_json("images", 1, neg_category_ids=[True]),
         Refused(r"'neg_category_ids' of image 2 must be a list")),
        ("neg_category_ids unknown", change_json("images", 1, neg_category_ids=[99]),
         Refused(r"'neg_category_ids' of image 2 has the unknown category 99")),
        ("neg_category_ids huge", change_json("images", 1, neg_category_ids=[10**30]),
         Refused(r"'neg_category_ids' of image 2")),
        ("annotated and negative", change_json("images", 0, neg_category_ids=[3]),
         Refused(r"image 1 has annotations of category 3")),
        ("not exhaustive unknown", change_json("images", 1, not_exhaustive_category_ids=[99]),
         Refused(r"'not_exhaustive_category_ids' of image 2 has the unknown")),
        ("no address", change_json("images", 0, coco_url=GONE),
         Refused(r"image 0 has neither a 'coco_url' nor a 'file_name'")),
        ("an address that is none", change_json("images", 0, coco_url=None),
         Refused(r"'coco_url' of image 0 must be text")),
        ("an address of nothing", change_json("images", 0, coco_url=""),
         Refused(r"a\.json lists|'coco_url'")),
        ("no frequency", change_json("categories", 0, frequency=GONE),
         Refused(r"category 3 \(disc\) has no 'frequency'")),
        ("an unknown frequency", change_json("categories", 0, frequency="x"),
         Refused(r"'frequency' of category 3 \(disc\) must be")),
        ("a frequency that is a list", change_json("categories", 0, frequency=[]),
         Refused(r"'frequency' of category 3 \(disc\) must be")),
        ("a class twice", change_json("categories", 1, name="disc"), Refused(r"stands twice")),
        ("an unknown class", annotation(category_id=99), Refused(r"annotation 12 .*category 99")),
        ("a negative twice", change_json("images", 2, neg_category_ids=[3, 3]),
         Harmless(like=change_json("images", 2, neg_category_ids=[3, 3]))),
        ("more keys", change_json(info={}), Harmless()),
    ]  # fmt: skip
    yield from (Case(f"LVIS: {name}", "lvis", spoil, promise) for name, spoil, promise in given)


def far_away(pixels: float) -> list[list[float]]:
    return [[pixels, 0], [0, pixels], [5, 5]]


def objects(*entries: Any) -> Break:
    return write(POLYGONS, json.dumps({"objects": list(entries)}))


def _polygons() -> Iterator[Case]:
    damaged = Refused(r"a_gtFine_polygons\.json is no Cityscapes annotation")
    whole = json.dumps({"objects": [CAR]})
    given: list[tuple[str, Break, Promise]] = [
        ("no objects", write(POLYGONS, "{}"), damaged),
        ("a list", write(POLYGONS, "[]"), damaged),
        ("objects null", write(POLYGONS, '{"objects": null}'), damaged),
        ("objects of texts", write(POLYGONS, '{"objects": ["car"]}'), damaged),
        ("no label", objects({"polygon": CAR["polygon"]}), damaged),
        ("a label that is a list", objects({**CAR, "label": ["car"]}), damaged),
        ("no polygon", objects({"label": "car"}), damaged),
        ("a polygon that is null", objects({**CAR, "polygon": None}), damaged),
        ("a polygon that is empty", objects({**CAR, "polygon": []}), damaged),
        ("points of three", objects({**CAR, "polygon": [[1, 2, 3]] * 3}), damaged),
        ("points of text", objects({**CAR, "polygon": [["1", "2"]] * 3}), damaged),
        ("points of null", objects({**CAR, "polygon": [[None, 2]] * 3}), damaged),
        ("points at 1e30", objects({**CAR, "polygon": far_away(1e30)}),
         Refused(r"polygons\.json|annotation 1")),
        ("points at 1e300", objects({**CAR, "polygon": far_away(1e300)}),
         Refused(r"polygons\.json|annotation 1")),
        ("points at 1e9", objects({**CAR, "polygon": far_away(1e9)}),
         Refused(r"polygons\.json|annotation 1")),
        ("sky at 1e300", objects(CAR, {"label": "sky", "polygon": far_away(1e300)}),
         damaged),
        ("sky at 1e9", objects(CAR, {"label": "sky", "polygon": far_away(1e9)}),
         damaged),
        ("sky of text", objects(CAR, {"label": "sky", "polygon": "abc"}), damaged),
        ("sky of one number", objects(CAR, {"label": "sky", "polygon": [[1], [2], [3]]}), damaged),
        ("outside", objects({**CAR, "polygon": [[900, 900], [950, 900], [950, 950]]}),
         Refused(r"annotation 1 lies entirely outside")),
        ("NaN", write(POLYGONS, whole.replace("20", "NaN", 1)), damaged),
        ("byte order mark", write(POLYGONS, "\ufeff" + whole), Harmless()),
    ]  # fmt: skip
    for part in range(10):
        content = whole[: len(whole) * part // 10]
        given.append((f"cut at {part} of 10", write(POLYGONS, content), damaged))
    for name, spoil, promise in given:
        of_sky = name.startswith("sky")
        yield Case(f"polygons: {name}", "polygons", spoil, promise, only_scoring=of_sky)


def ids(pixels: Any, **options: Any) -> Break:
    def spoil(folder: Path) -> None:
        Image.fromarray(pixels).save(folder / IDS, **options)

    return spoil


def _ids() -> Iterator[Case]:
    whole = np.full((30, 40), 7, dtype=np.uint16)
    unknown = whole.copy()
    unknown[4:20, 4:20] = 7001
    given: list[tuple[str, Break, Promise]] = [
        ("of another size", ids(whole[:, :30].copy()), Refused(r"a_gtFine_instanceIds\.png is of")),
        ("in colours", ids(np.zeros((30, 40, 3), dtype=np.uint8)),
         Refused(r"a_gtFine_instanceIds\.png is of")),
        ("of an unknown label", ids(unknown), Refused(r"instanceIds\.png has the object 7001")),
        ("a text", write(IDS, "x"), Refused(r"instanceIds\.png cannot be read")),
        ("empty", write(IDS, b""), Refused(r"instanceIds\.png cannot be read.*empty")),
        ("not there", lambda folder: (folder / IDS).unlink(),
         Refused(r"1 of 3 images have no annotation")),
        ("floats", ids(whole.astype(np.float32), format="TIFF"),
         Refused(r"instanceIds\.png")),
    ]  # fmt: skip
    yield from (Case(f"ids: {name}", "ids", spoil, promise) for name, spoil, promise in given)


CASES = [*_lvis(), *_polygons(), *_ids()]

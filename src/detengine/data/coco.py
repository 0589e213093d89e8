"""COCO's annotation files: boxes, polygons and run lengths, crowds, keypoints.

Format: https://cocodataset.org/#format-data. All masks become compressed run lengths of the image's
size while the file is read, polygons exactly as pycocotools' `annToRLE` makes them.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from detengine.data.annotations import (
    FoundImages,
    FoundObject,
    pack_annotations,
    raise_if_folder_is_wrong,
    raise_if_twice,
)
from detengine.data.images import read_size
from detengine.data.segmentation import encode_segmentation, is_numbers
from detengine.structures.categories import Categories
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.rle import decode_counts

_LVIS = "neg_category_ids"
"""What an image's entry has in LVIS's format only."""


def load_coco(annotations: Path, images: Path | None, name: str) -> GroundTruth:
    """Read a COCO file. annotations: the json; images: the folder; name: for messages.

    Images and categories stand in the file's order. An annotation without an id gets its position,
    from 1; without `area`, its mask's or its box's. An image without a size is asked for it. Where
    images is None, for scoring alone, no image is looked for, and each must have a size.
    Raises FileNotFoundError without the file, or if the first image is not in the folder; and
    ValueError, naming file and annotation, for what is missing, unknown, doubled or impossible.
    """
    return parse_coco(annotations, images, read_json(annotations, name))


def parse_coco(annotations: Path, images: Path | None, content: Mapping[str, Any]) -> GroundTruth:
    """As load_coco, of what `read_json` read from `annotations`."""
    categories, keypoint_names = _read_categories(annotations, content["categories"])
    found = _read_images(annotations, images, content["images"])
    entries = content["annotations"]
    joints = len(keypoint_names) or _count_keypoints(entries)
    reader = _ObjectReader(annotations, categories, found, joints)
    objects = [reader.read(position, entry) for position, entry in enumerate(entries)]
    return pack_annotations(annotations, categories, found, objects, keypoint_names)


def read_json(path: Path, name: str) -> Mapping[str, Any]:
    """The file, whose images, annotations and categories are lists of objects; errors as above."""
    if not path.is_file():
        raise FileNotFoundError(
            f"data set {name!r} has no annotation file: {path} does not exist. "
            "Correct its ANNOTATIONS, or DATASETS.ROOT."
        )
    data = path.read_bytes()
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(
            f"{path} is no complete JSON file ({len(data)} bytes): {error}. Was its download "
            "or its writing cut off? (NaN and Infinity are no JSON, either.)"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, but a COCO annotation file is an object "
            "with 'images', 'annotations' and 'categories'. Is it a result file?"
        )
    for key in ("images", "annotations", "categories"):
        entries = _require(path, "the file", content, key)
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            raise ValueError(f"{path}: {key!r} must be a list of objects, as in COCO's format")
    return content


def _require(path: Path, where: str, entry: Mapping[str, Any], key: str) -> Any:
    if key not in entry:
        lvis = " Is it LVIS's? Then its FORMAT is lvis." if _LVIS in entry else ""
        raise ValueError(
            f"{path}: {where} has no {key!r}, which COCO's format asks for; it has "
            f"{sorted(entry)}.{lvis}"
        )
    return entry[key]


def _integer(path: Path, where: str, entry: Mapping[str, Any], key: str) -> int:
    value = _require(path, where, entry, key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{path}: {key!r} of {where} must be an integer, but is {value!r}")
    if abs(value) >= 1 << 63:
        raise ValueError(f"{path}: {key!r} of {where} is {value}, which 64 bits do not hold")
    return value


def _read_categories(
    path: Path, entries: Sequence[Mapping[str, Any]]
) -> tuple[Categories, tuple[str, ...]]:
    """The classes, and the names of the keypoints of those that have any."""
    where = [f"category {position}" for position in range(len(entries))]
    pairs = list(zip(where, entries, strict=True))
    names = tuple(str(_require(path, at, entry, "name")) for at, entry in pairs)
    ids = tuple(_integer(path, at, entry, "id") for at, entry in pairs)
    schemes = {_keypoint_names(path, *pair) for pair in pairs} - {()}
    if len(schemes) > 1:
        raise ValueError(
            f"{path}: its categories name different keypoints ({sorted(map(len, schemes))} of "
            "them); one scheme for all is needed. Make a data set of each."
        )
    try:
        return Categories(names, ids), schemes.pop() if schemes else ()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _keypoint_names(path: Path, where: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    names = entry.get("keypoints") or []
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise ValueError(
            f"{path}: the keypoints of {where} must be a list of their names, but are "
            f"{str(names)[:80]}"
        )
    return tuple(names)


def _count_keypoints(entries: Sequence[Mapping[str, Any]]) -> int:
    """J, from the first annotation with keypoints; 0 if there is none."""
    given = (each.get("keypoints") for each in entries)
    return next((len(each) // 3 for each in given if each and isinstance(each, list)), 0)


def _read_images(
    path: Path, folder: Path | None, entries: Sequence[Mapping[str, Any]]
) -> FoundImages:
    where = [f"image {position}" for position in range(len(entries))]
    pairs = list(zip(where, entries, strict=True))
    ids = [_integer(path, at, entry, "id") for at, entry in pairs]
    raise_if_twice(path, "image id", ids)
    file_names = [str(_require(path, at, entry, "file_name")) for at, entry in pairs]
    if folder is not None:
        raise_if_folder_is_wrong(path, folder, file_names)
    sizes = [
        _size(path, at, entry)
        if folder is None or ("height" in entry and "width" in entry)
        else read_size(folder / file_name)
        for (at, entry), file_name in zip(pairs, file_names, strict=True)
    ]
    return FoundImages(ids, file_names, sizes)


def _size(path: Path, where: str, entry: Mapping[str, Any]) -> tuple[int, int]:
    height, width = (_edge(path, where, entry, key) for key in ("height", "width"))
    if height * width >= 1 << 32:
        raise ValueError(
            f"{path}: {where} has {height} x {width} pixels (height x width), more than the 2**32 "
            "that masks can count. Correct its size."
        )
    return height, width


def _edge(path: Path, where: str, entry: Mapping[str, Any], key: str) -> int:
    pixels = _integer(path, where, entry, key)
    if pixels < 1:
        raise ValueError(f"{path}: {key!r} of {where} must be at least 1 pixel, but is {pixels}")
    return pixels


class _ObjectReader:
    """Reads annotations one by one; holds what they refer to."""

    def __init__(
        self, path: Path, categories: Categories, images: FoundImages, joints: int
    ) -> None:
        self.path = path
        self.category_ids = frozenset(categories.ids)
        self.image_of_id = {image_id: index for index, image_id in enumerate(images.ids)}
        self.images = images
        self.joints = joints

    def read(self, position: int, entry: Mapping[str, Any]) -> FoundObject:
        path = self.path
        annotation_id = position + 1
        where = f"annotation {position} (without an id)"
        if "id" in entry:
            annotation_id = _integer(path, f"annotation {position}", entry, "id")
            where = f"annotation {annotation_id}"
        image_id = _integer(path, where, entry, "image_id")
        if image_id not in self.image_of_id:
            raise ValueError(
                f"{path}: {where} belongs to image {image_id}, which is not among the file's "
                f"{len(self.image_of_id)} images. Take it out, or list the image."
            )
        category_id = _integer(path, where, entry, "category_id")
        if category_id not in self.category_ids:
            raise ValueError(
                f"{path}: {where} has the unknown category {category_id}; the file's categories "
                f"are {sorted(self.category_ids)}. Add it to them, or correct the annotation."
            )
        image = self.image_of_id[image_id]
        box = self._box(where, entry)
        mask = self._mask(where, entry, self.images.sizes[image])
        keypoints, labelled = self._keypoints(where, entry)
        return FoundObject(
            image=image,
            annotation_id=annotation_id,
            category_id=category_id,
            box_xywh=box,
            area=self._area(where, entry, box, mask),
            is_crowd=self._is_crowd(where, entry),
            mask=mask,
            keypoints=keypoints,
            num_keypoints=labelled,
        )

    def _is_crowd(self, where: str, entry: Mapping[str, Any]) -> bool:
        flag = entry.get("iscrowd") or 0
        if flag not in (0, 1):
            raise ValueError(f"{self.path}: 'iscrowd' of {where} must be 0 or 1, but is {flag!r}")
        return bool(flag)

    def _box(self, where: str, entry: Mapping[str, Any]) -> tuple[float, float, float, float]:
        box = _require(self.path, where, entry, "bbox")
        if not is_numbers(box) or len(box) != 4:
            raise ValueError(
                f"{self.path}: the bbox of {where} must be [x, y, width, height], but is {box!r}"
            )
        return (box[0], box[1], box[2], box[3])

    def _mask(self, where: str, entry: Mapping[str, Any], size: tuple[int, int]) -> bytes:
        segmentation = entry.get("segmentation")
        if not segmentation:
            return b""
        try:
            return encode_segmentation(segmentation, size)
        except ValueError as error:
            raise ValueError(f"{self.path}: the segmentation of {where}: {error}") from error

    def _area(
        self, where: str, entry: Mapping[str, Any], box: tuple[float, ...], mask: bytes
    ) -> float:
        area = entry.get("area")
        if area is None:
            return float(decode_counts(mask)[1::2].sum()) if mask else box[2] * box[3]
        if not is_numbers([area]) or not math.isfinite(area):
            raise ValueError(f"{self.path}: the area of {where} must be a number, but is {area!r}")
        return float(area)

    def _keypoints(self, where: str, entry: Mapping[str, Any]) -> tuple[tuple[float, ...], int]:
        """J times x, y, visibility, zeros where there are none; and the number of labelled ones."""
        keypoints = entry.get("keypoints") or [0.0] * (3 * self.joints)
        if not is_numbers(keypoints) or len(keypoints) != 3 * self.joints:
            raise ValueError(
                f"{self.path}: the keypoints of {where} must be {self.joints} times x, y, "
                f"visibility, as many as the file's others, but are {str(keypoints)[:80]}"
            )
        labelled = entry.get("num_keypoints")
        if labelled is None:
            labelled = sum(flag > 0 for flag in keypoints[2::3])
        if not is_numbers([labelled]):
            raise ValueError(
                f"{self.path}: 'num_keypoints' of {where} must be a number, but is {labelled!r}"
            )
        return tuple(keypoints), int(labelled)

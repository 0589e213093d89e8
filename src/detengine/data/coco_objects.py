"""COCO's annotations one by one: all that the format allows, and what is wrong with the rest."""

import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import chain
from typing import Any

from detengine.data.annotations import FoundImages
from detengine.data.coco_file import CocoFile, read_integer, require
from detengine.data.object_columns import (
    MOST_COORDINATE,
    FoundObject,
    ObjectColumns,
    columns_of,
)
from detengine.data.segmentation import encode_segmentation, is_numbers
from detengine.structures.categories import Categories
from detengine.structures.rle import decode_counts
from detengine.untrusted.excerpt import excerpt, listed


class ObjectReader:
    """Reads annotations one by one; holds what they refer to."""

    def __init__(
        self, file: CocoFile, categories: Categories, images: FoundImages, joints: int
    ) -> None:
        self.path = file.path
        self.category_ids = frozenset(categories.ids)
        self.images = images
        self._file = file
        self._named_joints = joints

    @cached_property
    def image_of_id(self) -> dict[int, int]:
        return {image_id: index for index, image_id in enumerate(self.images.ids)}

    @cached_property
    def joints(self) -> int:
        """J: of the categories, or else of the first annotation of all that has keypoints."""
        chunks = map(self._file.entries, self._file.chunks)
        return self._named_joints or count_keypoints(chain.from_iterable(chunks))

    def agrees(self, columns: ObjectColumns) -> bool:
        """Whether all that have keypoints have J of them."""
        given = columns.keypoint_lengths[columns.keypoint_lengths > 0]
        return not len(given) or bool((given == 3 * self.joints).all())

    def read_chunk(self, number: int, position: int) -> ObjectColumns:
        """All annotations of a chunk, of which the first is at this position in the file.

        Raises ValueError, naming file and annotation.
        """
        entries = self._file.entries(self._file.chunks[number])
        numbered = enumerate(entries, start=position)
        return columns_of([self.read(position, entry) for position, entry in numbered])

    def read(self, position: int, entry: Mapping[str, Any]) -> FoundObject:
        path = self.path
        annotation_id = position + 1
        where = f"annotation {position} (without an id)"
        if "id" in entry:
            annotation_id = read_integer(path, f"annotation {position}", entry, "id")
            where = f"annotation {annotation_id}"
        image_id = read_integer(path, where, entry, "image_id")
        if image_id not in self.image_of_id:
            raise ValueError(
                f"{path}: {where} belongs to image {image_id}, which is not among the file's "
                f"{len(self.image_of_id)} images. Take it out, or list the image."
            )
        category_id = read_integer(path, where, entry, "category_id")
        if category_id not in self.category_ids:
            known = listed(sorted(self.category_ids))
            raise ValueError(
                f"{path}: {where} has the unknown category {category_id}; the file's categories "
                f"are [{known}]. Add it to them, or correct the annotation."
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
        flag = entry.get("iscrowd")
        if flag is None:
            return False
        if flag not in (0, 1):
            raise ValueError(
                f"{self.path}: 'iscrowd' of {where} must be 0 or 1, but is {excerpt(flag)}"
            )
        return bool(flag)

    def _box(self, where: str, entry: Mapping[str, Any]) -> tuple[float, float, float, float]:
        box = require(self.path, where, entry, "bbox")
        if not is_numbers(box) or len(box) != 4:
            raise ValueError(
                f"{self.path}: the bbox of {where} must be [x, y, width, height], but is "
                f"{excerpt(box)}"
            )
        return (box[0], box[1], box[2], box[3])

    def _mask(self, where: str, entry: Mapping[str, Any], size: tuple[int, int]) -> bytes:
        segmentation = entry.get("segmentation")
        if segmentation is None or segmentation == [] or segmentation == {}:
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
        if not is_numbers([area]) or not 0 <= area < math.inf:
            more = ", and none below 0" if is_numbers([area]) else ""
            raise ValueError(
                f"{self.path}: the area of {where} must be a number{more}, but is {excerpt(area)}"
            )
        return float(area)

    def _keypoints(self, where: str, entry: Mapping[str, Any]) -> tuple[tuple[float, ...], int]:
        """J times x, y, visibility, nothing where there are none; how many of them are labelled."""
        keypoints = entry.get("keypoints") or []
        if keypoints and (not is_numbers(keypoints) or len(keypoints) != 3 * self.joints):
            raise ValueError(
                f"{self.path}: the keypoints of {where} must be {self.joints} times x, y, "
                f"visibility, as many as the file's others, but are {excerpt(keypoints)}"
            )
        if not all(abs(each) <= MOST_COORDINATE for each in keypoints):
            raise ValueError(
                f"{self.path}: the keypoints of {where} are beyond all numbers of 32 bits: "
                f"{excerpt(keypoints)}"
            )
        labelled = entry.get("num_keypoints")
        if labelled is None:
            labelled = sum(flag > 0 for flag in keypoints[2::3])
        if not is_numbers([labelled]) or labelled % 1 or not 0 <= labelled < 1 << 63:
            raise ValueError(
                f"{self.path}: 'num_keypoints' of {where} must be a number, but is "
                f"{excerpt(labelled)}"
            )
        return tuple(keypoints), int(labelled)


def count_keypoints(entries: Iterable[Mapping[str, Any]]) -> int:
    """J, from the first annotation with keypoints; 0 if there is none."""
    given = (each.get("keypoints") for each in entries)
    return next((len(each) // 3 for each in given if each and isinstance(each, list)), 0)

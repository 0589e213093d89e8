"""Some thousand annotations of a COCO file at a time, typed: no Python object for each number.

Only what is plainly right is read here. At the least doubt nothing is, and `coco` reads the same
annotations one by one: it knows all that the format allows, and says what is wrong. Without torch.
"""

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from detengine.data.object_columns import (
    MOST_COORDINATE,
    Integers,
    ObjectColumns,
    floats,
    integers,
)
from detengine.data.segmentation import encode_polygons, encode_segmentation


class _Annotation(msgspec.Struct, gc=False):
    """msgspec refuses a wrong type (a bool, or 3.0, for an integer) and an infinite number."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: int = 0
    segmentation: list[list[float]] | dict[str, Any] | None = None
    keypoints: list[float] | None = None
    num_keypoints: int | None = None


Text = bytes | memoryview
"""Annotations in JSON, separated by commas."""

_DECODER = msgspec.json.Decoder(list[_Annotation])


@dataclass(frozen=True, eq=False)
class KnownIds:
    """What annotations refer to. image_ids: int64[I]; image_sizes: int64[I, 2], (height, width)."""

    image_ids: Integers
    image_sizes: Integers
    category_ids: Integers

    def to_bytes(self) -> bytes:
        return msgspec.msgpack.encode(
            [self.image_ids.data, self.image_sizes.data, self.category_ids.data]
        )


def known_ids_from_bytes(data: bytes) -> KnownIds:
    """What `to_bytes` wrote."""
    image_ids, image_sizes, category_ids = (
        np.frombuffer(part, dtype=np.int64)
        for part in msgspec.msgpack.decode(data, type=list[bytes])
    )
    return KnownIds(image_ids, image_sizes.reshape(-1, 2), category_ids)


def as_list(text: Text) -> bytes:
    return b"".join((b"[", text, b"]"))


class ChunkReader:
    """Reads annotations; holds what they refer to."""

    def __init__(self, known: KnownIds) -> None:
        self._order = np.argsort(known.image_ids, kind="stable")
        self._sorted_ids = known.image_ids[self._order]
        self._sizes = known.image_sizes
        self._category_ids = known.category_ids

    def read(self, text: Text) -> ObjectColumns | None:
        """The annotations of a chunk, in its order; None unless all are plainly right."""
        try:
            return self._columns_of(_DECODER.decode(as_list(text)))
        except (msgspec.MsgspecError, RecursionError, OverflowError, ValueError, TypeError):
            return None

    def _columns_of(self, found: list[_Annotation]) -> ObjectColumns:
        """Raises ValueError or OverflowError for what is doubtful."""
        images = self._images_of(integers([each.image_id for each in found]))
        category_ids = integers([each.category_id for each in found])
        crowds = integers([each.iscrowd for each in found])
        if not np.isin(category_ids, self._category_ids).all() or not np.isin(crowds, [0, 1]).all():
            raise ValueError("an unknown category, or a crowd that is neither 0 nor 1")
        areas = floats([each.area for each in found])
        keypoints = floats([value for each in found for value in each.keypoints or ()])
        num_keypoints = integers([_num_keypoints(each) for each in found])
        if min(areas.min(initial=0), num_keypoints.min(initial=0)) < 0:
            raise ValueError("a negative area, or number of keypoints")
        if np.abs(keypoints).max(initial=0) > MOST_COORDINATE:
            raise ValueError("a keypoint that 32 bits do not hold")
        sizes = self._sizes[images].tolist()
        masks = [
            _mask(each.segmentation, (height, width))
            for each, (height, width) in zip(found, sizes, strict=True)
        ]
        return ObjectColumns(
            images=images,
            annotation_ids=integers([each.id for each in found]),
            category_ids=category_ids,
            boxes_xywh=floats([each.bbox for each in found]).reshape(-1, 4),
            areas=areas,
            is_crowd=crowds.astype(np.bool_),
            is_difficult=np.zeros(len(found), dtype=np.bool_),
            keypoints=keypoints,
            keypoint_lengths=integers([len(each.keypoints or ()) for each in found]),
            num_keypoints=num_keypoints,
            masks=masks,
        )

    def _images_of(self, image_ids: Integers) -> Integers:
        """The index of each id's image. Raises ValueError if there is none of an id."""
        places = np.searchsorted(self._sorted_ids, image_ids)
        if len(image_ids) and (
            places.max() >= len(self._sorted_ids) or (self._sorted_ids[places] != image_ids).any()
        ):
            raise ValueError("an unknown image")
        return self._order[places]


def _mask(segmentation: list[list[float]] | dict[str, Any] | None, size: tuple[int, int]) -> bytes:
    if not segmentation:
        return b""
    if isinstance(segmentation, list):
        return encode_polygons(segmentation, size)
    return encode_segmentation(segmentation, size)


def _num_keypoints(annotation: _Annotation) -> int:
    if annotation.num_keypoints is not None:
        return annotation.num_keypoints
    return sum(flag > 0 for flag in (annotation.keypoints or [])[2::3])

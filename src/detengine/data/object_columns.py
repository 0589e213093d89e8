"""Annotations as they are read, in columns: what readers, their helper processes and packing share.

Without torch, so that a helper process starts at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

MOST_COORDINATE = 3e38
"""Of a keypoint, which is trained on with 32 bits."""

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FoundObject:
    """One annotation. image: the index of its image; mask: a compressed RLE, empty for none."""

    image: int
    annotation_id: int
    category_id: int
    box_xywh: tuple[float, float, float, float]
    area: float
    is_crowd: bool = False
    is_difficult: bool = False
    mask: bytes = b""
    keypoints: tuple[float, ...] = ()
    num_keypoints: int = 0


@dataclass(frozen=True, eq=False)
class ObjectColumns:
    """N annotations as `FoundObject` has them.

    - images, annotation_ids, category_ids, keypoint_lengths, num_keypoints: int64[N].
    - boxes_xywh: float64[N, 4]; areas: float64[N]; is_crowd, is_difficult: bool[N].
    - keypoints: float64[sum of keypoint_lengths], those of all, end to end.
    - masks: N strings.
    """

    images: Integers
    annotation_ids: Integers
    category_ids: Integers
    boxes_xywh: Floats
    areas: Floats
    is_crowd: NDArray[np.bool_]
    is_difficult: NDArray[np.bool_]
    keypoints: Floats
    keypoint_lengths: Integers
    num_keypoints: Integers
    masks: list[bytes]

    def __len__(self) -> int:
        return len(self.images)

    def to_bytes(self) -> bytes:
        """What `columns_from_bytes` reads."""
        *arrays, masks = (getattr(self, field.name) for field in fields(self))
        return msgspec.msgpack.encode((masks, [each.tobytes() for each in arrays]))


def columns_from_bytes(data: bytes) -> ObjectColumns:
    """What `to_bytes` wrote. Raises msgspec.DecodeError or ValueError for anything else."""
    masks, arrays = msgspec.msgpack.decode(data, type=tuple[list[bytes], list[bytes]])
    names = [field.name for field in fields(ObjectColumns)][:-1]
    columns: dict[str, Any] = {
        name: np.frombuffer(part, dtype=_DTYPES.get(name, np.int64))
        for name, part in zip(names, arrays, strict=True)
    }
    columns["boxes_xywh"] = columns["boxes_xywh"].reshape(-1, 4)
    return ObjectColumns(**columns, masks=masks)


def columns_of(objects: Sequence[FoundObject]) -> ObjectColumns:
    """Raises OverflowError for an integer beyond 64 bits."""
    return ObjectColumns(
        images=integers([each.image for each in objects]),
        annotation_ids=integers([each.annotation_id for each in objects]),
        category_ids=integers([each.category_id for each in objects]),
        boxes_xywh=floats([each.box_xywh for each in objects]).reshape(-1, 4),
        areas=floats([each.area for each in objects]),
        is_crowd=np.array([each.is_crowd for each in objects], dtype=np.bool_),
        is_difficult=np.array([each.is_difficult for each in objects], dtype=np.bool_),
        keypoints=floats([value for each in objects for value in each.keypoints]),
        keypoint_lengths=integers([len(each.keypoints) for each in objects]),
        num_keypoints=integers([each.num_keypoints for each in objects]),
        masks=[each.mask for each in objects],
    )


def integers(values: Sequence[Any]) -> Integers:
    return np.array(values, dtype=np.int64)


def floats(values: Sequence[Any]) -> Floats:
    return np.array(values, dtype=np.float64)


def joined(parts: Sequence[ObjectColumns], name: str) -> NDArray[Any]:
    """One column of all parts, in their order."""
    columns = [getattr(each, name) for each in parts]
    return np.concatenate(columns) if columns else getattr(columns_of([]), name)


_DTYPES: dict[str, type[np.generic]] = {
    "boxes_xywh": np.float64,
    "areas": np.float64,
    "is_crowd": np.bool_,
    "is_difficult": np.bool_,
    "keypoints": np.float64,
}
"""Those that are not int64."""

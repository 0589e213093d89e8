"""One entry of a COCO result file: what it must have, and what that must be.

Every function raises ValueError, naming the file and the entry's number, for anything else.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detengine.structures.rle import RLE, decode_counts, encode_counts
from detengine.untrusted.excerpt import excerpt, listed

Entry = Mapping[str, Any]

PART_OF_IOU_TYPE = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}


def required(path: Path, number: int, entry: Entry, key: str) -> Any:
    """What an entry must have."""
    if key not in entry:
        message = f"{path}: entry {number} has no {key!r}; it has {listed(entry) or 'nothing'}"
        if key in PART_OF_IOU_TYPE.values():
            message += ". Score what all entries have (--iou-type)."
        raise ValueError(message)
    return entry[key]


def whole_number_of(path: Path, number: int, entry: Entry, key: str) -> int:
    """An id."""
    value = required(path, number, entry, key)
    if type(value) is not int:
        raise ValueError(
            f"{path}: {key!r} of entry {number} must be an integer, but is {excerpt(value)}"
        )
    return value


def score_of(path: Path, number: int, entry: Entry) -> float:
    """A finite number."""
    value = required(path, number, entry, "score")
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(
            f"{path}: the score of entry {number} must be a number, but is {excerpt(value)}"
        )
    return float(value)


def numbers_of(path: Path, number: int, entry: Entry, key: str, count: int) -> list[float]:
    """So many finite numbers."""
    values = required(path, number, entry, key)
    if (
        not isinstance(values, list)
        or len(values) != count
        or not all(type(each) in (int, float) and math.isfinite(each) for each in values)
    ):
        raise ValueError(
            f"{path}: {key!r} of entry {number} must be {count} numbers, but is {excerpt(values)}"
        )
    return values


def box_of(path: Path, number: int, entry: Entry) -> list[float]:
    """x, y, width, height."""
    box = numbers_of(path, number, entry, "bbox", 4)
    if box[2] < 0 or box[3] < 0:
        raise ValueError(
            f"{path}: the box of entry {number} is [x, y, width, height] {box}, whose width and "
            "height must not be negative; was it given as x1, y1, x2, y2?"
        )
    if not math.isfinite(box[0] + box[2]) or not math.isfinite(box[1] + box[3]):
        raise ValueError(f"{path}: the box of entry {number} is too large to have an end: {box}")
    return box


def mask_of(path: Path, number: int, entry: Entry, size: tuple[int, int]) -> RLE:
    """A mask that covers the image's size, (height, width); its runs may be compressed or not."""
    mask = required(path, number, entry, "segmentation")
    counts = mask.get("counts") if isinstance(mask, dict) else None
    if not isinstance(counts, str | list) or not isinstance(mask.get("size"), list):
        raise ValueError(
            f"{path}: 'segmentation' of entry {number} must be an RLE, "
            f"{{'size': [height, width], 'counts': ...}}, but is {excerpt(mask)}"
        )
    if mask["size"] != list(size):
        raise ValueError(
            f"{path}: the mask of entry {number} is of the size {excerpt(mask['size'])}, but its "
            f"image is of {list(size)} (height, width)"
        )
    if isinstance(counts, list):
        string = encode_counts(_runs(path, number, counts, size))
    else:
        string = counts.encode()
        _raise_if_damaged(path, number, string, size)
    return {"size": list(size), "counts": string}


def _runs(path: Path, number: int, counts: list[Any], size: tuple[int, int]) -> NDArray[np.int64]:
    if not all(type(each) is int and each >= 0 for each in counts):
        raise ValueError(
            f"{path}: the runs of the mask of entry {number} must be lengths in pixels, but are "
            f"{excerpt(counts)}"
        )
    _raise_if_uncovered(path, number, sum(counts), size)
    return np.array(counts, dtype=np.int64)


def _raise_if_damaged(path: Path, number: int, string: bytes, size: tuple[int, int]) -> None:
    try:
        runs = decode_counts(string)
    except ValueError as error:
        raise ValueError(f"{path}: the mask of entry {number} is no RLE: {error}") from error
    _raise_if_uncovered(path, number, int(runs.sum()), size)


def _raise_if_uncovered(path: Path, number: int, covered: int, size: tuple[int, int]) -> None:
    height, width = size
    if covered != height * width:
        raise ValueError(
            f"{path}: the runs of the mask of entry {number} cover {covered} pixels, but its image "
            f"of {height} x {width} (height x width) has {height * width}"
        )


def size_of_mask(entry: Entry) -> tuple[int, int]:
    """(height, width) of an image whose size the ground truth does not say."""
    mask = entry.get("segmentation")
    size = mask.get("size") if isinstance(mask, dict) else None
    if isinstance(size, list) and len(size) == 2 and all(type(each) is int for each in size):
        return (size[0], size[1])
    return (1, 1)

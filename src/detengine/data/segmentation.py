"""COCO's three kinds of mask, each turned into compressed run lengths of the image's size."""

import math
from typing import Any

import hotcoco.mask
import numpy as np

from detengine.structures.rle import decode_counts, encode_counts
from detengine.untrusted.excerpt import excerpt

_NUMBERS = frozenset({int, float})
_NO_POLYGON = (
    "a polygon is a list of x1, y1, x2, y2, ... with at least three points, but this is {}. Take "
    "the polygon out, or the annotation."
)


def encode_segmentation(segmentation: object, size: tuple[int, int]) -> bytes:
    """The compressed run lengths of polygons, run lengths, or compressed run lengths.

    size: (height, width). Polygons become what pycocotools' `annToRLE` makes of them.
    Raises ValueError for anything else, and for run lengths that do not cover exactly the image.
    """
    if isinstance(segmentation, list):
        return _encode_polygons(segmentation, size)
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise ValueError(
            "neither polygons [[x1, y1, x2, y2, ...], ...] nor run lengths {'size': ..., "
            f"'counts': ...}}, but {excerpt(segmentation)}"
        )
    own_size = segmentation["size"]
    if not isinstance(own_size, list | tuple) or list(own_size) != list(size):
        raise ValueError(
            f"its run lengths are of an image of {excerpt(own_size)} (height, width), but the "
            f"file gives its image {list(size)}. Were the images resized?"
        )
    counts = segmentation["counts"]
    if isinstance(counts, str):
        mask = counts.encode()
        runs = decode_counts(mask)
    elif is_numbers(counts):
        strange = [each for each in counts if not 0 <= each < 1 << 32 or each != int(each)]
        if strange:
            raise ValueError(
                f"a run length must be 0 to 2**32 - 1, but one is {excerpt(strange[0])}"
            )
        runs = np.asarray(counts, dtype=np.int64)
        mask = encode_counts(runs)
    else:
        raise ValueError(f"its counts are neither a string nor integers, but {excerpt(counts)}")
    if int(runs.sum()) != size[0] * size[1]:
        raise ValueError(
            f"its run lengths cover {int(runs.sum())} pixels, but an image of {size[0]} x "
            f"{size[1]} (height x width) has {size[0] * size[1]}. It is damaged: export it again."
        )
    return mask


def _encode_polygons(polygons: list[Any], size: tuple[int, int]) -> bytes:
    for polygon in polygons:
        if not is_numbers(polygon):
            raise ValueError(_NO_POLYGON.format(excerpt(polygon)))
    return encode_polygons(polygons, size)


def encode_polygons(polygons: list[list[float]], size: tuple[int, int]) -> bytes:
    """As encode_segmentation, of one or more lists of numbers."""
    for polygon in polygons:
        # pycocotools takes four numbers for a box, and never comes back from a NaN
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(_NO_POLYGON.format(excerpt(polygon)))
        if not math.isfinite(sum(polygon)):
            raise ValueError("a polygon has a coordinate that is not finite. Take it out.")
    parts = hotcoco.mask.frPyObjects(polygons, *size)
    merged = parts[0] if len(parts) == 1 else hotcoco.mask.merge(parts)
    return bytes(merged["counts"])


def is_numbers(values: object) -> bool:
    """Whether it is a list of integers and floats and of nothing else (booleans are neither)."""
    return isinstance(values, list) and _NUMBERS.issuperset(map(type, values))

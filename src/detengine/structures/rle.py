"""COCO's run-length encoding: its strings, its runs, and square mask probabilities straight to RLE.

A mask is read column by column; its runs alternate between outside and inside and begin with
outside. The string (maskApi.c of cocodataset/cocoapi) holds the runs as little-endian signed
numbers of 5 bits a character, from the fourth run on as the difference to the last but one.
"""

from itertools import pairwise
from typing import TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Runs = NDArray[np.int64]

_FIRST_CHARACTER = 48
_MORE_FOLLOWS = 0x20
_MOST_CHARACTERS = 7
"""A run or a difference of two has at most 33 bits with its sign: maskApi.c's counts are uint32."""


class RLE(TypedDict):
    """A mask of a whole image, as pycocotools writes it. size: [height, width]."""

    size: list[int]
    counts: bytes


def decode_counts(data: bytes) -> Runs:
    """The run lengths, int64[R], of a compressed COCO string.

    Raises ValueError if the string has a foreign character, ends within a number, or gives a run
    that is negative or beyond 32 bits.
    """
    codes = np.frombuffer(data, dtype=np.uint8).astype(np.int64) - _FIRST_CHARACTER
    if not len(codes):
        return codes
    foreign = np.flatnonzero((codes < 0) | (codes > 63))
    if len(foreign):
        at = int(foreign[0])
        raise ValueError(
            f"a compressed RLE has the byte {data[at : at + 1]!r} at position {at} of {len(data)}; "
            "only the characters '0' (48) to 'o' (111) belong there. Is it compressed at all?"
        )
    stops = np.flatnonzero(codes < _MORE_FOLLOWS) + 1
    if not len(stops) or stops[-1] != len(codes):
        raise ValueError(
            f"a compressed RLE of {len(data)} bytes ends within a number: is it cut off?"
        )
    lengths = np.diff(stops, prepend=0)
    if int(lengths.max()) > _MOST_CHARACTERS:
        raise ValueError("a compressed RLE has a number of more than 32 bits: it is damaged")
    starts = stops - lengths
    digit = np.arange(len(codes)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & 0x1F) << (5 * digit), starts)
    numbers -= np.where(codes[stops - 1] & 0x10, np.int64(1) << (5 * lengths), 0)
    # From here a number is a difference to the last run but one: two interleaved sums.
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    impossible = numbers[(numbers < 0) | (numbers >= 1 << 32)]
    if len(impossible):
        raise ValueError(f"a compressed RLE has a run of {impossible[0]} pixels: it is damaged")
    return numbers


def encode_counts(counts: Runs) -> bytes:
    """The compressed COCO string of run lengths, int64[R]: pycocotools' to the byte.

    Raises ValueError if a run is negative or beyond 32 bits.
    """
    counts = np.asarray(counts, dtype=np.int64)
    if len(counts) and (int(counts.min()) < 0 or int(counts.max()) >= 1 << 32):
        raise ValueError(f"a run length must be 0 to 2**32 - 1, but the runs are {counts}")
    return _encode_many(counts, np.array([0, len(counts)]))[0]


def encode_mask_probs(
    mask_probs: Tensor, boxes_xyxy: Tensor, size: tuple[int, int], threshold: float = 0.5
) -> list[RLE]:
    """Encode each box's square mask as the RLE of the full image.

    mask_probs: float[N, M, M] in [0, 1]. boxes_xyxy: float[N, 4], absolute pixels.
    size: (height, width). N may be 0. Inverted boxes and those off the image give empty masks.
    Bit-identical to pasting into a full image (torchvision's roi_heads), `> threshold` and
    encoding, but never leaves the box. Raises ValueError if the two N differ or a box is not
    finite.
    """
    boxes_xyxy = boxes_xyxy.float()
    if mask_probs.ndim != 3 or boxes_xyxy.shape != (len(mask_probs), 4):
        raise ValueError(
            "expected mask_probs[N, M, M] and boxes_xyxy[N, 4], "
            f"but got {list(mask_probs.shape)} and {list(boxes_xyxy.shape)}"
        )
    if not bool(boxes_xyxy.isfinite().all()):
        raise ValueError("a box with a coordinate that is NaN or infinite can hold no mask")
    # One pixel of zeros around each mask, and the box grown alike: its edge is interpolated too.
    padded = F.pad(mask_probs.float(), (1, 1, 1, 1))[:, None]
    boxes = _expand(boxes_xyxy, padded.shape[-1] / mask_probs.shape[-1]).long().tolist()
    edges = [
        _edges(mask[None], box, size, threshold) for mask, box in zip(padded, boxes, strict=True)
    ]
    counts, offsets = _runs_between(edges, size[0] * size[1])
    return [{"size": list(size), "counts": string} for string in _encode_many(counts, offsets)]


def _expand(boxes_xyxy: Tensor, scale: float) -> Tensor:
    """The boxes, float[N, 4], grown about their centres: in torchvision's order of operations."""
    low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    half = (high - low) * 0.5 * scale
    centre = (high + low) * 0.5
    return torch.cat([centre - half, centre + half], dim=1)


def _edges(mask: Tensor, box: list[int], size: tuple[int, int], threshold: float) -> Runs:
    """Where the pasted mask changes, as sorted positions in the image read column by column.

    mask: float[1, 1, M, M]; box: inclusive xyxy. Interpolated at the box's full size, by the very
    kernel that torchvision calls: any other order of its operations would round differently.
    """
    height, width = size
    x1, y1, x2, y2 = box
    left, right = max(x1, 0), min(x2 + 1, width)
    top, bottom = max(y1, 0), min(y2 + 1, height)
    if left >= right or top >= bottom:
        return np.empty(0, dtype=np.int64)
    pasted = F.interpolate(
        mask, size=(y2 - y1 + 1, x2 - x1 + 1), mode="bilinear", align_corners=False
    )[0, 0].numpy()
    visible = pasted[top - y1 : bottom - y1, left - x1 : right - x1]
    # Compared row with row, which needs no transposing: the few edges are sorted into columns.
    inside = np.zeros((bottom - top + 2, right - left), dtype=np.bool_)
    np.greater(visible, threshold, out=inside[1:-1])
    row, column = np.divmod(np.flatnonzero(inside[1:] != inside[:-1]), right - left)
    edges = (column + left) * height + (row + top)
    edges.sort()
    return _without_seams(edges, height * width) if bottom == height else edges


def _without_seams(edges: Runs, pixels: int) -> Runs:
    """Without the pairs of edges where two columns touch, and the edge that is the image's end."""
    same = edges[1:] == edges[:-1]
    keep = edges < pixels
    keep[1:] &= ~same
    keep[:-1] &= ~same
    return edges[keep]


def _runs_between(edges: list[Runs], pixels: int) -> tuple[Runs, Runs]:
    """The runs of all masks in one array, int64[R], and where each mask's begin, int64[N + 1]."""
    first, last = np.zeros(1, dtype=np.int64), np.full(1, pixels, dtype=np.int64)
    framed = [part for each in edges for part in (first, each, last)]
    offsets = np.cumsum([0] + [len(each) + 1 for each in edges])
    if not framed:
        return first[:0], offsets
    # What lies between one mask's end and the next one's beginning is no run.
    seams = offsets[1:-1] + np.arange(len(edges) - 1)
    return np.delete(np.diff(np.concatenate(framed)), seams), offsets


def _encode_many(counts: Runs, offsets: Runs) -> list[bytes]:
    """The compressed strings of many masks at once. counts: int64[R]; offsets: int64[N + 1]."""
    numbers = counts.copy()
    numbers[2:] -= counts[:-2]
    # The first three runs of each mask are written as they are.
    run = np.arange(len(counts)) - np.repeat(offsets[:-1], np.diff(offsets))
    numbers = np.where(run > 2, numbers, counts)
    magnitude = numbers ^ (numbers >> 63)
    lengths = np.ones(len(numbers), dtype=np.int64)
    for characters in range(1, _MOST_CHARACTERS):
        lengths += magnitude >= 1 << (5 * characters - 1)
    stops = lengths.cumsum()
    digit = np.arange(int(stops[-1]) if len(stops) else 0) - np.repeat(stops - lengths, lengths)
    codes = (np.repeat(numbers, lengths) >> (5 * digit)) & 0x1F
    codes |= _MORE_FOLLOWS
    codes[stops - 1] &= 0x1F
    joined = (codes + _FIRST_CHARACTER).astype(np.uint8).tobytes()
    bounds = np.concatenate([[0], stops])[offsets].tolist()
    return [joined[start:stop] for start, stop in pairwise(bounds)]

"""COCO's run-length encoding: its strings and its runs.

A mask is read column by column; its runs alternate between outside and inside and begin with
outside. The string (maskApi.c of cocodataset/cocoapi) holds the runs as little-endian signed
numbers of 5 bits a character, from the fourth run on as the difference to the last but one.
"""

from itertools import pairwise
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Runs = NDArray[np.int64]

FIRST_CHARACTER = 48
MORE_FOLLOWS = 0x20
MOST_CHARACTERS = 7
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
    codes = np.frombuffer(data, dtype=np.uint8).astype(np.int64) - FIRST_CHARACTER
    if not len(codes):
        return codes
    foreign = np.flatnonzero((codes < 0) | (codes > 63))
    if len(foreign):
        at = int(foreign[0])
        raise ValueError(
            f"a compressed RLE has the byte {data[at : at + 1]!r} at position {at} of {len(data)}; "
            "only the characters '0' (48) to 'o' (111) belong there. Is it compressed at all?"
        )
    stops = np.flatnonzero(codes < MORE_FOLLOWS) + 1
    if not len(stops) or stops[-1] != len(codes):
        raise ValueError(
            f"a compressed RLE of {len(data)} bytes ends within a number: is it cut off?"
        )
    lengths = np.diff(stops, prepend=0)
    if int(lengths.max()) > MOST_CHARACTERS:
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
    impossible = counts[(counts < 0) | (counts >= 1 << 32)]
    if len(impossible):
        raise ValueError(f"a run length must be 0 to 2**32 - 1, but one is {impossible[0]}")
    return encode_many(counts, np.array([0, len(counts)]))[0]


def encode_many(counts: Runs, offsets: Runs) -> list[bytes]:
    """The compressed strings of many masks at once. counts: int64[R]; offsets: int64[N + 1]."""
    numbers = counts.copy()
    numbers[2:] -= counts[:-2]
    # The first three runs of each mask are written as they are.
    run = np.arange(len(counts)) - np.repeat(offsets[:-1], np.diff(offsets))
    numbers = np.where(run > 2, numbers, counts)
    magnitude = numbers ^ (numbers >> 63)
    lengths = np.ones(len(numbers), dtype=np.int64)
    most = int(magnitude.max(initial=0)).bit_length() // 5
    for characters in range(1, most + 1):
        lengths += magnitude >= 1 << (5 * characters - 1)
    stops = lengths.cumsum()
    digit = np.arange(int(stops[-1]) if len(stops) else 0) - np.repeat(stops - lengths, lengths)
    codes = (np.repeat(numbers, lengths) >> (5 * digit)) & 0x1F
    codes |= MORE_FOLLOWS
    codes[stops - 1] &= 0x1F
    joined = (codes + FIRST_CHARACTER).astype(np.uint8).tobytes()
    bounds = np.concatenate([[0], stops])[offsets].tolist()
    return [joined[start:stop] for start, stop in pairwise(bounds)]

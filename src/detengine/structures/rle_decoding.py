"""Many compressed COCO strings decoded at once: a target's masks cost what a single one does."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from detengine.structures.rle import (
    FIRST_CHARACTER,
    MORE_FOLLOWS,
    MOST_CHARACTERS,
    Runs,
    decode_counts,
)


def decode_many(strings: NDArray[np.uint8], bounds: Runs) -> tuple[Runs, Runs]:
    """The run lengths of all strings in one array, int64[R], and where each one's begin.

    strings: one after the other; bounds: int64[N + 1], where each begins and the last ends. Returns
    offsets int64[N + 1] beside the runs. They are `decode_counts`' of each string, which raises
    ValueError for one that is damaged.
    """
    codes = strings.astype(np.int64) - FIRST_CHARACTER
    if not len(codes):
        return codes, np.zeros(len(bounds), dtype=np.int64)
    is_last = codes < MORE_FOLLOWS
    filled = bounds[1:][np.diff(bounds) > 0]
    if codes.min() < 0 or codes.max() > 63 or not is_last[filled - 1].all():
        return _one_by_one(strings, bounds)
    stops = np.flatnonzero(is_last) + 1
    lengths = np.diff(stops, prepend=0)
    if lengths.max() > MOST_CHARACTERS:
        return _one_by_one(strings, bounds)
    starts = stops - lengths
    digit = np.arange(len(codes)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & 0x1F) << (5 * digit), starts)
    numbers -= np.where(codes[stops - 1] & 0x10, np.int64(1) << (5 * lengths), 0)
    offsets = np.concatenate([[0], is_last.cumsum()])[bounds]
    runs = _sum_differences(numbers, offsets)
    if runs.min() < 0 or runs.max() >= 1 << 32:
        return _one_by_one(strings, bounds)
    return runs, offsets


def _sum_differences(numbers: Runs, offsets: Runs) -> Runs:
    """The runs: a string's first is there as it is, its second and third begin two sums.

    Each string's numbers are laid out from an even place on, so that the sums of all of them are
    those of two columns, less what was in the column before the string.
    """
    counts = np.diff(offsets)
    first = 2 * np.concatenate([[0], ((counts + 1) // 2).cumsum()])
    place = np.arange(len(numbers)) + np.repeat(first[:-1] - offsets[:-1], counts)
    sums = np.zeros(int(first[-1]) + 2, dtype=np.int64)
    sums[place + 2] = numbers
    begins = offsets[:-1][counts > 0]
    sums[place[begins] + 2] = 0
    sums = sums.reshape(-1, 2).cumsum(axis=0).reshape(-1)
    runs: Runs = sums[place + 2] - sums[np.repeat(first[:-1], counts) + place % 2]
    runs[begins] = numbers[begins]
    return runs


def _one_by_one(strings: NDArray[np.uint8], bounds: Runs) -> tuple[Runs, Runs]:
    """Of strings of which one is damaged: raises what is wrong with it."""
    decoded = [
        decode_counts(strings[start:stop].tobytes()) for start, stop in pairwise(bounds.tolist())
    ]
    return np.concatenate(decoded), np.cumsum([0] + [len(each) for each in decoded])

"""The union of masks, as run lengths throughout."""

from collections.abc import Sequence

import numpy as np

from detengine.structures.rle import RLE, Runs, decode_counts, encode_counts


def union_of(rles: Sequence[RLE]) -> RLE:
    """The mask of all pixels that are inside one of the masks, which are of one size.

    Takes memory by the number of runs, never by the pixels. Raises ValueError for no masks, masks
    of several sizes, or a damaged one.
    """
    sizes = {tuple(rle["size"]) for rle in rles}
    if len(sizes) != 1:
        raise ValueError(f"expected masks of one size (height, width), but got {sorted(sizes)}")
    [(height, width)] = sizes
    starts, stops = (np.concatenate(parts) for parts in zip(*map(_inside, rles), strict=True))
    order = np.argsort(starts, kind="stable")
    starts, stops = starts[order], np.maximum.accumulate(stops[order])
    begins = np.ones(len(starts), dtype=bool)
    begins[1:] = starts[1:] > stops[:-1]
    ends = np.append(begins[1:], True)[: len(starts)]
    bounds = np.stack([starts[begins], stops[ends]], axis=1).reshape(-1)
    counts = np.diff(np.concatenate([[0], bounds, [height * width]]))
    if not counts[-1]:
        counts = counts[:-1]  # a mask up to the last pixel ends inside
    return {"size": [height, width], "counts": encode_counts(counts)}


def _inside(rle: RLE) -> tuple[Runs, Runs]:
    """Where each run inside begins and ends, in pixels column by column."""
    ends = decode_counts(rle["counts"]).cumsum()
    starts, stops = ends[0::2][: len(ends) // 2], ends[1::2]
    filled = starts < stops
    return starts[filled], stops[filled]

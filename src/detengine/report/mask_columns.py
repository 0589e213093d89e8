"""The pixels of a mask, without those of the whole image around it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from detengine.structures.rle import RLE, decode_counts


class MaskColumns(NamedTuple):
    """Those columns of a mask in which it is. inside: bool[H, n], from the column `first` on."""

    inside: NDArray[np.bool_]
    first: int


def columns_of(mask: Tensor | RLE) -> MaskColumns:
    """The mask's pixels; of an annotation without a mask (no counts), none.

    Of an RLE no more than its own columns are decoded: it may be a small one in a huge image.
    """
    if isinstance(mask, Tensor):
        return MaskColumns(mask.bool().cpu().numpy(), 0)
    height = mask["size"][0]
    ends = decode_counts(mask["counts"]).cumsum()
    if len(ends) < 2:
        return MaskColumns(np.zeros((height, 0), dtype=np.bool_), 0)
    last_inside = ends[len(ends) // 2 * 2 - 1]
    first, last = int(ends[0]) // height, -(-int(last_inside) // height)
    bounds = np.clip(ends - first * height, 0, (last - first) * height)
    runs = np.diff(bounds, prepend=0)
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    padding = (last - first) * height - len(pixels)
    return MaskColumns(np.pad(pixels, (0, padding)).reshape(last - first, height).T, first)


def dense_mask(mask: Tensor | RLE) -> NDArray[np.bool_]:
    """The mask as bool[H, W]; of an annotation without a mask (no counts), an empty one."""
    columns = columns_of(mask)
    if isinstance(mask, Tensor):
        return columns.inside
    dense = np.zeros(mask["size"], dtype=np.bool_)
    dense[:, columns.first : columns.first + columns.inside.shape[1]] = columns.inside
    return dense

"""Where masks begin and end in an image, solved for in each column instead of drawn.

Between two rows of a mask's grid a column of pixels changes at most once, because bilinear
interpolation is linear there. So each column is interpolated at the rows of the grid only, and
where two neighbours lie on different sides of the threshold, the pixel in between is solved for:
work that grows with the boxes' widths instead of their areas, on all masks of an image at once.

The kernel of torch rounds. What comes so near to the threshold that this could decide is unsure.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

Edges = NDArray[np.int64]
Positions = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_COLUMNS_AT_ONCE = 4096
"""Of pixels, unless a single mask has more: 1 MB at a grid of 30, which a core's cache holds."""

_SMALL = 128
"""Height and width together, in pixels, up to which torch has another kernel than beyond."""

_LONGEST_REMEMBERED = 8192
"""The side of a box, in pixels, up to which its sources are kept for another: 64 KiB."""


class Window(NamedTuple):
    """What is seen of the box of the mask at this position, in pixels of the image.

    x, y, width, height: of the whole box, which may reach beyond the image; left to right and top
    to bottom: its part within. right and bottom are the first pixel that is not.
    """

    mask: int
    x: int
    y: int
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


def edges_by_solving(
    padded: Floats, windows: Sequence[Window], size: tuple[int, int], threshold: float
) -> tuple[Edges, Positions]:
    """Where the masks change, sorted, and the positions of those masks that are unsure, sorted.

    padded: float32[N, G, G], masks within a border of zeros. windows: of what is seen, by mask.
    size: (height, width) of the image. An edge is `mask * (height * width + 1)` and the first pixel
    of another kind, counted column by column; height * width is the image's end. Two equal ones
    undo each other. Those of unsure masks mean nothing.
    """
    largest = float(np.abs(padded).max(initial=1.0))
    # Near the threshold, each of the kernel's five roundings in a row moves a value by 2**-24 of
    # itself at the most, and its two weights need not add up to 1, by 2**-25; a sixth is reserve.
    tolerance = (6 * threshold + 2 * largest) * 2**-24
    nothing = np.empty(0, np.int64)
    if not threshold > tolerance:  # the border would not be outside; infinities and NaN end here
        return nothing, np.array([each.mask for each in windows], np.int64)
    above = np.ascontiguousarray(padded.transpose(0, 2, 1), np.float64)
    above -= np.float32(threshold)
    parts = [_edges_of(above, group, size, tolerance) for group in _groups(windows)]
    edges = np.concatenate([nothing, *(part[0] for part in parts)])
    return edges, np.concatenate([nothing, *(part[1] for part in parts)])


def _groups(windows: Sequence[Window]) -> Iterator[list[Window]]:
    """The windows in their order, as many at once as have few enough columns."""
    group: list[Window] = []
    columns = 0
    for window in windows:
        columns += window.right - window.left
        if group and columns > _COLUMNS_AT_ONCE:
            yield group
            group, columns = [], window.right - window.left
        group.append(window)
    if group:
        yield group


def _edges_of(
    above: Doubles, windows: list[Window], size: tuple[int, int], tolerance: float
) -> tuple[Edges, Positions]:
    """The edges of these windows' masks. above: float64[N, G, G] by mask, x, y; the threshold is 0.

    A crossing is where a column meets the threshold, in rows of the grid.
    """
    grid = above.shape[-1]
    mask, _, y, _, height, left, right, top, bottom = np.array(windows).T
    owner = np.repeat(np.arange(len(windows)), right - left)
    values = _columns(above, windows, mask[owner])
    column, crossing, step = _crossings(values)
    of = owner[column]

    # the first row of pixels behind each crossing, of those that are seen
    rows_of_grid = height / grid
    shift = 0.5 * rows_of_grid + 0.5 + y - top
    row = np.floor(crossing * rows_of_grid[of] + shift[of]).astype(np.int64)
    row = row.clip(0, (bottom - top)[of])
    sources, first = _rows(grid, windows)
    at = first[of] + row
    gap = np.minimum(crossing - sources[at], sources[at + 1] - crossing)
    unsure = of[~(gap * np.abs(step) > tolerance)]
    is_far = np.abs(values) > tolerance
    if len(unsure) or not is_far.all():
        touching = owner[np.flatnonzero(~is_far) // grid]
        unsure = np.unique(np.concatenate([unsure, touching]))

    # the first pixel of each column that is seen, in all images' pixels
    columns_before = np.cumsum(right - left) - (right - left)
    start = mask * (size[0] * size[1] + 1) + top + (left - columns_before) * size[0]
    first_pixel = start[owner] + np.arange(len(owner)) * size[0]
    return first_pixel[column] + row, mask[unsure]


def _columns(above: Doubles, windows: list[Window], mask: Positions) -> Doubles:
    """float64[C, G]: each column that is seen of the windows, at the rows of the grid.

    mask: int64[C], whose column it is.
    """
    grid = above.shape[-1]
    seen = (
        _sources(grid, w.width, w.height)[w.left - w.x + 1 : w.right - w.x + 1] for w in windows
    )
    source = np.concatenate(list(seen))
    whole = source.astype(np.int64)
    lines = above.reshape(-1, grid)
    line = mask * grid + whole
    values: Doubles = lines.take(line, axis=0)
    # a grid's last line has the weight 1, so that whatever comes after has no say
    slope = lines.take(np.minimum(line + 1, len(lines) - 1), axis=0)
    slope -= values
    slope *= (source - whole)[:, None]
    values += slope
    return values


def _crossings(values: Doubles) -> tuple[Positions, Doubles, Doubles]:
    """Where columns meet the threshold: which, at which row of the grid, and how steeply.

    values: float64[C, G], of which the first and the last row lie outside.
    """
    grid, flat = values.shape[1], values.ravel()
    inside = flat > 0
    node = np.flatnonzero(inside[1:] != inside[:-1])
    column = node // grid
    before = flat[node]
    step = flat[node + 1] - before
    return column, node - column * grid - before / step, step


def _rows(grid: int, windows: list[Window]) -> tuple[Doubles, Positions]:
    """The sources of all rows that are seen, each window's between -inf and inf, and their starts.

    Beyond what is seen there are no pixels whose sources could be met.
    """
    seen = [_sources(grid, w.height, w.width)[w.top - w.y : w.bottom - w.y + 2] for w in windows]
    sources = np.concatenate(seen)
    stops = np.cumsum([len(each) for each in seen])
    first = np.concatenate([[0], stops[:-1]])
    sources[first], sources[stops - 1] = -np.inf, np.inf
    return sources, first


def _sources(grid: int, side: int, other: int) -> Doubles:
    """float64[1 + side + 1]: where the kernel reads each pixel of a side, in pixels of the grid.

    The first and the last stand for what is beyond. other: the box's other side.
    """
    is_small = side + other <= _SMALL
    ask = _remembered if side <= _LONGEST_REMEMBERED else _ask_kernel
    return ask(grid, side, is_small)


@lru_cache(maxsize=2048)
def _remembered(grid: int, side: int, is_small: bool) -> Doubles:
    return _ask_kernel(grid, side, is_small)


def _ask_kernel(grid: int, side: int, is_small: bool) -> Doubles:
    """Its weights, to the last bit, from what it makes of one pixel in three.

    Where a pixel is read can be told from its size but for the last bits, in which processors
    differ, and in torch 2.6 and 2.15 the two kernels, and either of them with three channels. The
    nearest pixel of the grid and its neighbours are of different thirds, so that their weights come
    out alone; that of one neighbour is 0.
    """
    thirds = (torch.arange(grid) % 3 == torch.arange(3)[:, None]).float()
    other = 1 if is_small else max(1, _SMALL + 1 - side)
    weights = F.interpolate(
        thirds[:, None, None], size=(other, side), mode="bilinear", align_corners=False
    )[:, 0, 0].numpy()
    pixel = np.arange(side)
    nearest = np.rint((pixel + 0.5) * (grid / side) - 0.5).clip(0, grid - 1).astype(np.int64)
    after, before = weights[(nearest + 1) % 3, pixel], weights[(nearest - 1) % 3, pixel]
    return np.pad(nearest + after.astype(np.float64) - before, 1)

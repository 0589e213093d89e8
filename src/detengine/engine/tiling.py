"""Large pictures seen in overlapping tiles, and what is found in these put together again.

What a tile's inner border cuts through is seen whole by a neighbour, if it is no larger than the
overlap; then the neighbour's detection stays, and the fragment goes. What is larger is cut in both
tiles, and the fragments become one detection. The idea of looking tile by tile, with an overlap, is
that of SAHI (Akyon et al., ICIP 2022); how the tiles' detections are matched is our own.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from detengine.structures.prediction import Prediction
from detengine.structures.rle_union import union_of

_SAME = 0.5
"""The IoU, or the part of a fragment, from which two tiles have seen the same object."""
_NEAR = 0.02
"""A box that ends so near to its tile's inner border, as a fraction of the side, is taken for cut:
boxes are not exact. A whole object that is taken for cut is found whole by the neighbour."""
_SURE = 0.5
"""A whole detection takes a fragment's place if its score is at least this part of that one's."""


class Window(NamedTuple):
    """A tile's place in the picture, in pixels; bottom and right lie behind its last one."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut. size: (height, width) of a tile; overlap: fraction of its sides.

    Raises ValueError for a tile without pixels, or an overlap that is not in 0 to 0.9.
    """

    size: tuple[int, int]
    overlap: float = 0.2

    def __post_init__(self) -> None:
        if len(self.size) != 2 or not all(type(side) is int and side > 0 for side in self.size):
            raise ValueError(
                f"tile is {self.size!r}; expected (height, width) in whole pixels, such as "
                "(1024, 1024), or one number for both"
            )
        if not 0 <= self.overlap <= 0.9:
            raise ValueError(
                f"tile_overlap is {self.overlap}; expected a fraction of the tile's side, 0 to "
                "0.9, such as 0.2; the largest object that is to be seen whole should fit in it"
            )

    def windows(self, size: tuple[int, int]) -> list[Window]:
        """The tiles of a picture, row by row, evenly spread; overlaps may be larger than asked for.

        size: (height, width). A picture that is no larger than a tile is one window.
        """
        rows, columns = (
            list(_spread(length, side, self.overlap))
            for length, side in zip(size, self.size, strict=True)
        )
        return [Window(top, left, bottom, right) for top, bottom in rows for left, right in columns]


def make_tiling(tile: int | tuple[int, int] | None, overlap: float) -> Tiling | None:
    """From what a user says. tile: a side, or (height, width); None: pictures are seen whole."""
    if tile is None:
        return None
    return Tiling((tile, tile) if isinstance(tile, int) else tile, overlap)


def _spread(length: int, side: int, overlap: float) -> Iterator[tuple[int, int]]:
    """Where the tiles along one edge begin and end."""
    if length <= side:
        yield 0, length
        return
    step = max(1, side - round(side * overlap))
    last = -(-(length - side) // step)
    for number in range(last + 1):
        start = round((length - side) * number / last)
        yield start, start + side


def in_picture(prediction: Prediction, window: Window, size: tuple[int, int]) -> Prediction:
    """A tile's prediction in the frame of the picture of this (height, width)."""
    shift = torch.tensor([window.left, window.top, 0.0])
    return replace(
        prediction,
        boxes_xyxy=prediction.boxes_xyxy + shift[[0, 1, 0, 1]],
        keypoints=None if prediction.keypoints is None else prediction.keypoints + shift,
        size=size,
    )


def merge_tiles(found: Sequence[Prediction], windows: Sequence[Window]) -> Prediction:
    """What was found in all tiles of a picture, each object once, the best first.

    found: each window's, in the frame of the picture, with masks as RLEs. Within a tile nothing is
    suppressed: there the model has decided.
    """
    joined = _joined(found)
    tile_of = torch.arange(len(found)).repeat_interleave(
        torch.tensor([len(each) for each in found])
    )
    matches = _Matches(joined, tile_of, torch.tensor(windows))
    whole = _whole_ones(joined, matches)
    fragments = sorted(matches.cut - {each for group in whole.values() for each in group})
    groups = [*([each] for each in whole), *_connected(fragments, matches.of_fragments)]
    merged = [_merged(joined, group) for group in groups if group]
    if not merged:
        return joined
    result = _joined(merged)
    return result.select(result.scores.argsort(descending=True, stable=True))


class _Matches:
    """Which detections of different tiles are of the same object.

    cut: those that an inner border cuts. of_whole: of each that is not, its equals and the
    fragments of it; of_fragments: of each that is, the other parts.
    """

    def __init__(self, joined: Prediction, tile_of: Tensor, windows: Tensor) -> None:
        self._boxes = joined.boxes_xyxy
        self._labels = torch.zeros_like(tile_of) if joined.labels is None else joined.labels
        is_cut = _is_cut(self._boxes, windows[tile_of], joined.size)
        self.cut = set(is_cut.nonzero()[:, 0].tolist())
        self.of_whole: dict[int, set[int]] = defaultdict(set)
        self.of_fragments: dict[int, set[int]] = defaultdict(set)
        rows_of = [(tile_of == tile).nonzero()[:, 0] for tile in range(len(windows))]
        for one, other in _neighbours(windows, [len(rows) for rows in rows_of]):
            seen_by_both = torch.cat(
                [
                    torch.maximum(windows[one, :2], windows[other, :2]),
                    torch.minimum(windows[one, 2:], windows[other, 2:]),
                ]
            )[[1, 0, 3, 2]]
            self._match(rows_of[one], rows_of[other], is_cut, seen_by_both)

    def _match(self, ones: Tensor, others: Tensor, is_cut: Tensor, seen_by_both: Tensor) -> None:
        """Note the matches of two tiles. seen_by_both: xyxy of what both have seen."""
        one, other = self._boxes[ones], self._boxes[others]
        overlap = _intersections(one, other)
        union = _areas(one)[:, None] + _areas(other) - overlap
        cut_one, cut_other = is_cut[ones][:, None], is_cut[others][None, :]
        same = ~cut_one & ~cut_other & (overlap >= _SAME * union)
        # a fragment lies within the object that the other tile sees whole
        same |= cut_one & ~cut_other & (overlap >= _SAME * _areas(one)[:, None])
        same |= ~cut_one & cut_other & (overlap >= _SAME * _areas(other))
        # of what neither sees whole, the parts that both see are the same
        one, other = _clipped(one, seen_by_both), _clipped(other, seen_by_both)
        overlap = _intersections(one, other)
        union = _areas(one)[:, None] + _areas(other) - overlap
        same |= cut_one & cut_other & (overlap >= _SAME * union)
        same &= (overlap > 0) & (self._labels[ones][:, None] == self._labels[others])
        for row, column in same.nonzero().tolist():
            self._note(int(ones[row]), int(others[column]))

    def _note(self, one: int, other: int) -> None:
        for first, second in ((one, other), (other, one)):
            if first not in self.cut:
                self.of_whole[first].add(second)
            elif second in self.cut:
                self.of_fragments[first].add(second)


def _whole_ones(joined: Prediction, matches: _Matches) -> dict[int, set[int]]:
    """The detections of whole objects that stay, each with those that it stands for."""
    scores = joined.scores.tolist()
    kept: dict[int, set[int]] = {}
    gone: set[int] = set()
    for row in joined.scores.argsort(descending=True, stable=True).tolist():
        if row in matches.cut or row in gone:
            continue
        kept[row] = {each for each in matches.of_whole[row] if scores[row] >= _SURE * scores[each]}
        gone |= kept[row]
    return kept


def _connected(rows: Sequence[int], matches: dict[int, set[int]]) -> Iterator[list[int]]:
    """The fragments, those of one object together."""
    left = dict.fromkeys(rows)
    while left:
        group = [left.popitem()[0]]
        for row in group:
            more = [each for each in sorted(matches[row]) if each in left]
            group += more
            for each in more:
                del left[each]
        yield group


def _merged(joined: Prediction, rows: Sequence[int]) -> Prediction:
    """One detection of several fragments: all they cover, the best score, each keypoint's best."""
    parts = joined.select(torch.tensor(rows))
    if len(rows) == 1:
        return parts
    best = int(parts.scores.argmax())
    one = parts.select(torch.tensor([best]))
    boxes = parts.boxes_xyxy
    keypoints, keypoint_scores = one.keypoints, one.keypoint_scores
    if parts.keypoints is not None and parts.keypoint_scores is not None:
        which = parts.keypoint_scores.argmax(dim=0)
        joints = torch.arange(len(which))
        keypoints = parts.keypoints[which, joints][None]
        keypoint_scores = parts.keypoint_scores[which, joints][None]
    return replace(
        one,
        boxes_xyxy=torch.cat([boxes[:, :2].amin(0), boxes[:, 2:].amax(0)])[None],
        rles=None if parts.rles is None else [union_of(parts.rles)],
        keypoints=keypoints,
        keypoint_scores=keypoint_scores,
    )


def _joined(found: Sequence[Prediction]) -> Prediction:
    """All detections as of one picture."""
    first = found[0]
    columns = {
        name: None
        if getattr(first, name) is None
        else torch.cat([getattr(each, name) for each in found])
        for name in ("boxes_xyxy", "scores", "labels", "keypoints", "keypoint_scores")
    }
    rles = None if first.rles is None else [rle for each in found for rle in each.rles or ()]
    return replace(first, rles=rles, **columns)  # type: ignore[arg-type]


def _is_cut(boxes_xyxy: Tensor, windows: Tensor, size: tuple[int, int]) -> Tensor:
    """bool[N]: whether a box ends at a border of its window that is none of the picture's."""
    top, left, bottom, right = windows.unbind(dim=1)
    height, width = size
    x1, y1, x2, y2 = boxes_xyxy.unbind(dim=1)
    near_x, near_y = (_NEAR * (right - left)).clamp(min=2), (_NEAR * (bottom - top)).clamp(min=2)
    return (
        ((top > 0) & (y1 <= top + near_y))
        | ((left > 0) & (x1 <= left + near_x))
        | ((bottom < height) & (y2 >= bottom - near_y))
        | ((right < width) & (x2 >= right - near_x))
    )


def _neighbours(windows: Tensor, counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs of windows that overlap, both with detections."""
    has_any = torch.tensor(counts) > 0
    for one in has_any.nonzero()[:, 0].tolist():
        rest = windows[one + 1 :]
        overlapping = (
            (rest[:, :2] < windows[one, 2:]).all(dim=1)
            & (rest[:, 2:] > windows[one, :2]).all(dim=1)
            & has_any[one + 1 :]
        )
        for other in overlapping.nonzero()[:, 0].tolist():
            yield one, one + 1 + other


def _areas(boxes_xyxy: Tensor) -> Tensor:
    return (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).clamp(min=0).prod(dim=1)


def _clipped(boxes_xyxy: Tensor, limits_xyxy: Tensor) -> Tensor:
    """float[N, 4]; of a box outside nothing is left."""
    low = torch.maximum(boxes_xyxy[:, :2], limits_xyxy[:2])
    high = torch.minimum(boxes_xyxy[:, 2:], limits_xyxy[2:])
    return torch.cat([low, torch.maximum(low, high)], dim=1)


def _intersections(one: Tensor, other: Tensor) -> Tensor:
    """float[N, M], the areas in common."""
    low = torch.maximum(one[:, None, :2], other[None, :, :2])
    high = torch.minimum(one[:, None, 2:], other[None, :, 2:])
    return (high - low).clamp(min=0).prod(dim=2)

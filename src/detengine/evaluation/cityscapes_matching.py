"""Which detections are right, wrong or neither by Cityscapes' rules, and the AP that follows.

The rules and the order of the arithmetic are those of the benchmark's script
(cityscapesscripts/evaluation/evalInstanceLevelSemanticLabeling.py).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detengine.evaluation.detections import Floats, Positions

IOU_THRESHOLDS = np.arange(0.5, 1.0, 0.05)
LEAST_AREA = 100
"""Smaller objects need not be found, in pixels."""

ROW = np.dtype([("score", "<f8"), ("category", "<i4"), ("right", "<u2"), ("wrong", "<u2")])
"""What is kept of a detection, once for itself and once for each object that it meets: a bit for
each IoU threshold at which it is a hit (right) or a mistake (wrong)."""

Rows = NDArray[np.void]

_BITS = (1 << np.arange(len(IOU_THRESHOLDS))).astype(np.uint16)
_LONGEST_SUM = 10_000


@dataclass(frozen=True, eq=False)
class Overlaps:
    """One image's D detections over its G objects, in pixels.

    - intersections: float64[D, G], 0 between different categories.
    - detections, objects: float64[D] and float64[G], their areas.
    - is_group: bool[G]; not one object but several, which need not be found.
    - void: float64[D], what of each detection lies where nothing is known.
    """

    intersections: Floats
    detections: Floats
    objects: Floats
    is_group: NDArray[np.bool_]
    void: Floats


def judge(overlaps: Overlaps, scores: Floats, categories: Positions) -> Rows:
    """The rows of one image's detections, those without a bit left out.

    At each threshold an object's hit is the detection with the highest score among those above it;
    the others there are mistakes. So is a detection that meets nothing, unless more of it than the
    threshold lies in void, groups and small objects. Which one of equal scores is the hit changes
    no curve.
    """
    order = np.argsort(-scores, kind="stable")
    inter, area = overlaps.intersections[order], overlaps.detections[order]
    union = overlaps.objects + area[:, None] - inter
    # boxes without an area meet nothing
    iou = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    meets = iou[:, :, None] > IOU_THRESHOLDS
    is_small = overlaps.objects < LEAST_AREA
    is_excused = _shares(overlaps, order)[:, None] > IOU_THRESHOLDS
    own = _rows(scores[order], categories[order])
    own["wrong"] = _packed(~meets.any(axis=1) & ~is_excused)

    met = meets[:, ~overlaps.is_group & ~is_small]
    is_first = met & (met.cumsum(axis=0) == 1)
    detection, counted = np.nonzero(met.any(axis=2))
    pairs = own[detection]
    pairs["right"] = _packed(is_first[detection, counted])
    pairs["wrong"] = _packed((met & ~is_first)[detection, counted])
    rows = np.concatenate([own, pairs])
    is_kept: NDArray[np.bool_] = (rows["right"] | rows["wrong"]) > 0
    return rows[is_kept]


def average_precisions(rows: Rows, num_objects: int) -> Floats:
    """float64[thresholds]: one class's AP at each; NaN without objects. rows: of all images."""
    if not num_objects:
        return np.full(len(IOU_THRESHOLDS), np.nan)
    rows = rows[np.argsort(rows["score"])]
    aps = np.zeros(len(IOU_THRESHOLDS))
    for k, bit in enumerate(_BITS):
        counted = rows[((rows["right"] | rows["wrong"]) & bit) > 0]
        if len(counted):
            is_right = (counted["right"] & bit) > 0
            aps[k] = _average_precision(counted["score"], is_right, num_objects)
    return aps


def _shares(overlaps: Overlaps, order: Positions) -> Floats:
    """float64[D]: how much of each detection is excused. Small groups count twice, as there."""
    times = overlaps.is_group.astype(np.float64) + (overlaps.objects < LEAST_AREA)
    excused = (overlaps.void + (overlaps.intersections * times).sum(axis=1))[order]
    area = overlaps.detections[order]
    shares: Floats = np.divide(excused, area, out=np.zeros_like(area), where=area > 0)
    return shares


def _rows(scores: Floats, categories: Positions) -> Rows:
    rows = np.zeros(len(scores), ROW)
    rows["score"], rows["category"] = scores, categories
    return rows


def _packed(flags: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """uint16[N] of bool[N, thresholds]."""
    packed: NDArray[np.uint16] = (flags * _BITS).sum(axis=1, dtype=np.uint16)
    return packed


def _average_precision(scores: Floats, is_right: NDArray[np.bool_], num_objects: int) -> float:
    """The area under the curve of precision over recall, a point for each distinct score.

    scores: float64[N], ascending. Each point's precision counts for half the way from the point
    before it to the point behind it.
    """
    firsts = np.flatnonzero(np.append(True, scores[1:] != scores[:-1]))
    hits = np.append(is_right[::-1].cumsum()[::-1], 0)[firsts].astype(np.float64)
    precision = np.append(hits / (len(scores) - firsts), 1.0)
    recall = np.append(hits / num_objects, 0.0)
    framed = np.concatenate([recall[:1], recall, [0.0]])
    widths = 0.5 * framed[:-2] - 0.5 * framed[2:]
    # OpenBLAS shares longer sums among its threads, and would round by their number.
    parts = range(0, len(widths), _LONGEST_SUM)
    return float(
        sum(
            np.dot(precision[start : start + _LONGEST_SUM], widths[start : start + _LONGEST_SUM])
            for start in parts
        )
    )

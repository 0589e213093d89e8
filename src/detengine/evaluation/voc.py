"""PASCAL VOC's average precision, as the detections come.

The rules are the devkit's (VOCevaldet.m, VOCcode of VOC2007 and VOC2012): each detection, best
first, is matched with the object it overlaps most; an object is found once; what overlaps a
difficult object most is neither hit nor miss. Boxes are of pixels in the devkit, first and last
included: just the area of the continuous boxes here.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from detengine.evaluation.detections import Detections
from detengine.evaluation.options import ScoringOptions
from detengine.evaluation.result import TaskScores
from detengine.evaluation.truth import Truth

Floats = NDArray[Any]
Bools = NDArray[np.bool_]

_HIT, _MISS, _IGNORED = 1, 0, -1
_MATCH = np.dtype([("category", "<i4"), ("score", "<f8"), ("outcome", "i1")])
"""13 bytes a detection."""

TASKS = ("voc2007", "voc2012")
"""The precision averaged over eleven recalls, and the area under the curve (since VOC2010)."""


class VocScorer:
    """Keeps a class, a score and an outcome for each detection.

    Of equal scores the earlier detection goes first, image by image in the order of their ids: the
    devkit's order, on any number of ranks. options.voc_extra_pixel: the predecessor's arithmetic
    (data/datasets/evaluation/voc/voc_eval.py), in which overlaps are those of boxes a pixel wider
    and higher, in float32; its order of equal scores is numpy's quicksort's, and not kept.
    Raises ValueError if boxes are not scored.
    """

    def __init__(self, truth: Truth, iou_types: Sequence[str], options: ScoringOptions) -> None:
        if "bbox" not in iou_types:
            raise ValueError("the metric voc scores boxes, but bbox is not among the iou types")
        self._truth = truth
        self._threshold = options.voc_iou_threshold
        self._extra = 1 if options.voc_extra_pixel else 0
        self._dtype = np.float32 if options.voc_extra_pixel else np.float64
        self._metric = _metric_name(options)
        self._matches: dict[int, NDArray[Any]] = {}

    @staticmethod
    def tasks_of(iou_types: Sequence[str], options: ScoringOptions) -> dict[str, tuple[str, ...]]:
        """Each task with the names of its metrics."""
        return dict.fromkeys(TASKS, (_metric_name(options),))

    @property
    def tasks(self) -> tuple[str, ...]:
        return TASKS

    def update(self, detections: Detections) -> None:
        """Match one image's detections with its objects."""
        rows = self._truth.rows_of(detections.image)
        boxes_xywh = self._truth.columns.boxes_xywh[rows].numpy()
        objects = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
        object_category = self._truth.category_of_annotation[rows].numpy()
        is_difficult = self._truth.is_ignored[rows].numpy()
        parts = []
        for category in np.unique(detections.categories):
            found = np.flatnonzero(detections.categories == category)
            found = found[_best_first(detections.scores[found])]
            here = object_category == category
            part = np.empty(len(found), _MATCH)
            part["category"], part["score"] = category, detections.scores[found]
            part["outcome"] = self._match(
                detections.boxes_xyxy[found], objects[here], is_difficult[here]
            )
            parts.append(part)
        self._matches[detections.image] = np.concatenate(parts) if parts else np.empty(0, _MATCH)

    def matches(self, task: str) -> bytes:
        """Those of all images seen so far; both tasks have the same, so the first carries them."""
        if task != TASKS[0]:
            return b""
        header = {
            "images": list(self._matches),
            "lengths": [len(part) for part in self._matches.values()],
        }
        return orjson.dumps(header) + b"\n" + b"".join(p.tobytes() for p in self._matches.values())

    def merge_matches(self, task: str, parts: Iterable[bytes]) -> None:
        """Take in the `matches` of other ranks, read one by one."""
        for part in parts:
            line, _, data = part.partition(b"\n")
            if not line:
                continue
            header = orjson.loads(line)
            rows = np.frombuffer(data, _MATCH)
            stops = np.cumsum(header["lengths"], dtype=np.int64)
            for image, stop, length in zip(header["images"], stops, header["lengths"], strict=True):
                self._matches.setdefault(image, rows[stop - length : stop])

    def scores(self) -> dict[str, TaskScores]:
        """The AP of each class, and their mean over the classes that have objects."""
        ordered = [self._matches[image] for image in sorted(self._matches)]
        matches = np.concatenate(ordered) if ordered else np.empty(0, _MATCH)
        category_of = self._truth.category_of_annotation
        countable = category_of[~self._truth.is_ignored & (category_of >= 0)].numpy()
        names = self._truth.categories.names
        objects = np.bincount(countable, minlength=len(names))
        curves = [
            precision_and_recall(matches[matches["category"] == k], int(objects[k]))
            for k in range(len(names))
        ]
        return {
            "voc2007": self._task(names, [_eleven_point(*curve) for curve in curves]),
            "voc2012": self._task(names, [_all_point(*curve) for curve in curves]),
        }

    def _task(self, names: Sequence[str], aps: Sequence[float]) -> TaskScores:
        measured = [ap for ap in aps if ap != -1]
        mean = float(np.mean(measured)) if measured else -1.0
        return TaskScores({self._metric: mean}, dict(zip(names, aps, strict=True)), self._metric)

    def _match(self, boxes: Floats, objects: Floats, is_difficult: Bools) -> NDArray[np.int8]:
        """The outcome of each box, best first. boxes, objects: float64[D or N, 4], xyxy."""
        outcomes = np.full(len(boxes), _MISS, np.int8)
        if not len(objects):
            return outcomes
        overlaps = _overlaps(boxes.astype(self._dtype), objects.astype(self._dtype), self._extra)
        is_found = np.zeros(len(objects), dtype=bool)
        for row, nearest in enumerate(overlaps.argmax(axis=1)):
            if overlaps[row, nearest] < self._dtype(self._threshold):
                continue
            if is_difficult[nearest]:
                outcomes[row] = _IGNORED
            elif not is_found[nearest]:
                outcomes[row] = _HIT
            is_found[nearest] = True
        return outcomes


def _metric_name(options: ScoringOptions) -> str:
    return f"AP{round(100 * options.voc_iou_threshold)}"


def _best_first(scores: Floats) -> NDArray[np.int64]:
    """Where the highest score stands, and so on; of equal ones the earlier first."""
    return np.argsort(-scores, kind="stable")


def _overlaps(boxes: Floats, objects: Floats, extra: int) -> Floats:
    """The IoU of each box with each object, in their dtype. extra: pixels added to all sides."""
    sides, object_sides = (each[:, 2:] - each[:, :2] + extra for each in (boxes, objects))
    areas, object_areas = sides[:, 0] * sides[:, 1], object_sides[:, 0] * object_sides[:, 1]
    first = np.maximum(boxes[:, None, :2], objects[None, :, :2])
    last = np.minimum(boxes[:, None, 2:], objects[None, :, 2:])
    common = (last - first + extra).clip(min=0)
    intersection = common[..., 0] * common[..., 1]
    union = areas[:, None] + object_areas - intersection
    overlaps: Floats = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return overlaps


def precision_and_recall(matches: NDArray[Any], objects: int) -> tuple[Floats, Floats | None]:
    """Both after each detection of a class, best first; no recall where there are no objects."""
    outcomes = matches["outcome"][_best_first(matches["score"])]
    hits, misses = np.cumsum(outcomes == _HIT), np.cumsum(outcomes == _MISS)
    counted = hits + misses
    # before the first that counts, which a difficult object may put off, there is no precision
    precision = np.divide(hits, counted, out=np.zeros(len(hits)), where=counted > 0)
    return precision, hits / objects if objects else None


def _eleven_point(precision: Floats, recall: Floats | None) -> float:
    if recall is None:
        return -1.0
    ap = 0.0
    for threshold in np.arange(0.0, 1.1, 0.1):
        reached = precision[recall >= threshold]
        ap += float(reached.max()) / 11 if len(reached) else 0.0
    return ap


def _all_point(precision: Floats, recall: Floats | None) -> float:
    if recall is None:
        return -1.0
    recalls = np.concatenate(([0], recall, [1]))
    best = np.maximum.accumulate(np.concatenate(([0], precision, [0]))[::-1])[::-1]
    steps = np.flatnonzero(recalls[1:] != recalls[:-1])
    return float(np.sum((recalls[steps + 1] - recalls[steps]) * best[steps + 1]))

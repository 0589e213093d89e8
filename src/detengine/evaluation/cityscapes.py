"""Cityscapes' instance AP as the detections come, on any number of ranks."""

import logging
from collections.abc import Iterable, Sequence

import numpy as np

from detengine.evaluation.cityscapes_matching import (
    IOU_THRESHOLDS,
    LEAST_AREA,
    ROW,
    Rows,
    average_precisions,
    judge,
)
from detengine.evaluation.cityscapes_overlaps import (
    areas_of_annotations,
    box_overlaps,
    mask_areas,
    mask_overlaps,
)
from detengine.evaluation.detections import Detections, Floats
from detengine.evaluation.options import ScoringOptions
from detengine.evaluation.result import TaskScores
from detengine.evaluation.truth import Truth

logger = logging.getLogger("detengine.inference")

NOT_SCORED = ("caravan", "trailer")
"""Classes with objects that the benchmark ignores (cityscapesscripts/helpers/labels.py)."""

BBOX, SEGM = "cityscapes_bbox", "cityscapes_segm"
METRICS = ("AP", "AP50", "AP75")
_NOTHING_TO_SCORE = -1.0


class CityscapesScorer:
    """The benchmark's AP of masks, cityscapes_segm, and the same of boxes, cityscapes_bbox.

    AP is the mean over the thresholds 0.50, 0.55, ..., 0.95 and over the classes with objects. Each
    must be exceeded, the curve is not smoothed, and an image has no limit of detections. Of the
    official scripts' numbers the masks' are equal to the last bit, where NumPy's dot product is the
    same: it sums in an order that depends on the processor.

    Objects are the annotations; crowds and the groups among `GroundTruth.ignored_regions` are
    regions of their class in which a detection is no mistake, and void is one for all classes. Only
    a set that has these regions, and objects that do not overlap, gives the benchmark's number.
    Scored are all classes but caravans and trailers: of Cityscapes these are the official eight, of
    a set with other classes all of them.

    Boxes follow maskrcnn-benchmark's variant (evaluation/cityscapes/eval_instances.py), in which
    void and groups have no boxes and excuse nothing, an object is small by its box, and a box may
    be the hit of two objects. Here boxes are not cut down to whole pixels, as they are there, meet
    objects of their own class only, and caravans and trailers are not scored.

    Keeps 16 bytes a detection and task, and as many for each object that it meets.
    Raises ValueError if the ground truth has no masks for segm, or no class that is scored.
    """

    def __init__(self, truth: Truth, iou_types: Sequence[str], options: ScoringOptions) -> None:
        self._truth = truth
        self._scored = _scored_categories(truth)
        self._rows: dict[str, dict[int, Rows]] = {
            task: {} for task in self.tasks_of(iou_types, options)
        }
        if SEGM in self._rows:
            truth.raise_without("masks", SEGM)
            if truth.columns.ignored_regions is None:
                logger.warning(
                    "%s: this data set does not say where void and groups are, so that detections "
                    "there count as mistakes; for the benchmark's numbers give it the FORMAT "
                    "cityscapes and the MODE mask",
                    SEGM,
                )

    @staticmethod
    def tasks_of(iou_types: Sequence[str], options: ScoringOptions) -> dict[str, tuple[str, ...]]:
        """Each task with the names of its metrics."""
        task_of = {"bbox": BBOX, "segm": SEGM}
        return {task: METRICS for iou_type, task in task_of.items() if iou_type in iou_types}

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self._rows)

    def update(self, detections: Detections) -> None:
        """Judge one image's detections. An empty mask is no detection."""
        scored = detections.at(np.isin(detections.categories, self._scored).nonzero()[0])
        if BBOX in self._rows:
            self._keep(BBOX, scored)
        if SEGM in self._rows:
            self._keep(SEGM, scored.at(mask_areas(scored.rles or ()).nonzero()[0]))

    def matches(self, task: str) -> bytes:
        """The rows of all images seen so far, for another rank's `merge_matches`."""
        found = self._rows[task]
        numbers = [len(found), *found, *map(len, found.values())]
        rows = np.concatenate([np.zeros(0, ROW), *found.values()])
        return np.array(numbers, "<i8").tobytes() + rows.tobytes()

    def merge_matches(self, task: str, parts: Iterable[bytes]) -> None:
        """Take in the `matches` of other ranks; of an image that several have, the last one's.

        parts: read one by one. This scorer's own count as the last.
        """
        merged: dict[int, Rows] = {}
        for part in parts:
            merged |= _read_matches(part)
        self._rows[task] = merged | self._rows[task]

    def scores(self) -> dict[str, TaskScores]:
        """The metrics of each task; images that have not come are without detections."""
        return {task: self._scores_of(task) for task in self._rows}

    def _keep(self, task: str, detections: Detections) -> None:
        rows = np.zeros(0, ROW)
        if len(detections):
            overlaps_of = mask_overlaps if task == SEGM else box_overlaps
            overlaps = overlaps_of(self._truth, detections)
            rows = judge(overlaps, detections.scores, detections.categories)
        self._rows[task][detections.image] = rows

    def _scores_of(self, task: str) -> TaskScores:
        rows = np.concatenate([np.zeros(0, ROW), *self._rows[task].values()])
        numbers = self._numbers_of_objects(task)
        aps = np.stack(
            [
                average_precisions(rows[rows["category"] == category], number)
                for category, number in zip(self._scored, numbers, strict=True)
            ]
        )
        at_50, at_75 = (int(np.isclose(IOU_THRESHOLDS, each).argmax()) for each in (0.5, 0.75))
        values = (_mean(aps), _mean(aps[:, at_50]), _mean(aps[:, at_75]))
        names = [self._truth.categories.names[category] for category in self._scored]
        per_class = {name: _mean(of_class) for name, of_class in zip(names, aps, strict=True)}
        return TaskScores(dict(zip(METRICS, values, strict=True)), per_class, main="AP")

    def _numbers_of_objects(self, task: str) -> list[int]:
        """How many objects of each scored class must be found."""
        truth = self._truth
        categories = truth.category_of_annotation.numpy()
        rows = np.flatnonzero(np.isin(categories, self._scored) & ~truth.is_ignored.numpy())
        areas = areas_of_annotations(truth, rows, by_mask=task == SEGM)
        counted = categories[rows[areas >= LEAST_AREA]]
        return [int((counted == category).sum()) for category in self._scored]


def _scored_categories(truth: Truth) -> list[int]:
    """The positions in truth.categories of the classes that are scored."""
    names = truth.categories.names
    scored = [position for position, name in enumerate(names) if name not in NOT_SCORED]
    if not scored:
        raise ValueError(
            f"cityscapes was asked for, but the classes that the data set and the model share are "
            f"{', '.join(names) or 'none'}, and {' and '.join(NOT_SCORED)} are not scored; take "
            "it out of TEST.METRICS"
        )
    return scored


def _read_matches(part: bytes) -> dict[int, Rows]:
    number = int(np.frombuffer(part, "<i8", 1)[0])
    images, counts = np.frombuffer(part, "<i8", 2 * number, offset=8).reshape(2, number)
    rows = np.frombuffer(part, ROW, offset=8 + 16 * number)
    return dict(zip(images.tolist(), np.split(rows, counts.cumsum())[:number], strict=True))


def _mean(aps: Floats) -> float:
    """Without the classes that have no objects; -1 if that is all."""
    return _NOTHING_TO_SCORE if np.isnan(aps).all() else float(np.nanmean(aps))

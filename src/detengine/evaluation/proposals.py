"""How many objects an image's first proposals cover: the recall of boxes without classes.

The numbers are the predecessor's (evaluate_box_proposals in data/datasets/evaluation/coco), by its
arithmetic in float32. They are not COCO's AR: each object is given one proposal, the best pairs
first, and proposals have no class.
"""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np
import orjson
import torch
from numpy.typing import NDArray

from detengine.evaluation.detections import Detections
from detengine.evaluation.options import COCO_AREAS, ScoringOptions
from detengine.evaluation.result import TaskScores
from detengine.evaluation.truth import Truth

Floats = NDArray[np.float32]

TASK = "box_proposal"
LIMITS = (100, 1000)
_SUFFIX = {"all": "", "small": "s", "medium": "m", "large": "l"}
_THRESHOLDS = np.arange(0.5, 0.95 + 1e-5, 0.05).astype(np.float32)
"""As torch.arange gives them."""


class ProposalScorer:
    """Keeps the overlap of each object that a proposal covers by half or more, 4 bytes a number.

    Objects are the annotations of all classes that are neither crowd nor difficult; an area range
    without objects is -1.
    """

    def __init__(self, truth: Truth, iou_types: Sequence[str], options: ScoringOptions) -> None:
        self._truth = truth
        self._overlaps: dict[str, list[Floats]] = {name: [] for name in _metrics()}

    @staticmethod
    def tasks_of(iou_types: Sequence[str], options: ScoringOptions) -> dict[str, tuple[str, ...]]:
        """Each task with the names of its metrics."""
        return {TASK: tuple(_metrics())}

    @property
    def tasks(self) -> tuple[str, ...]:
        return (TASK,)

    def update(self, detections: Detections) -> None:
        """Take in one image's proposals. Of equal scores the earlier goes first."""
        rows = self._truth.rows_of(detections.image)
        counts = ~self._truth.is_ignored[rows].numpy()
        xywh = self._truth.columns.boxes_xywh[rows].numpy()[counts].astype(np.float32)
        areas = self._truth.columns.areas[rows].numpy()[counts].astype(np.float32)
        order = np.argsort(-detections.scores, kind="stable")[: LIMITS[-1]]
        boxes = detections.boxes_xyxy[order].astype(np.float32)
        overlaps = _overlaps(boxes, xywh)
        for name, (limit, area) in _metrics().items():
            low, high = COCO_AREAS[area]
            is_in = (areas >= np.float32(low)) & (areas <= np.float32(high))
            covered = _cover(overlaps[:limit][:, is_in])
            if len(covered):
                self._overlaps[name].append(covered)

    def matches(self, task: str) -> bytes:
        """The overlaps of all images seen so far, for another rank's `merge_matches`."""
        joined = [_joined(parts) for parts in self._overlaps.values()]
        header = orjson.dumps([len(each) for each in joined])
        return header + b"\n" + b"".join(each.tobytes() for each in joined)

    def merge_matches(self, task: str, parts: Iterable[bytes]) -> None:
        """Take in the `matches` of other ranks, read one by one."""
        for part in parts:
            line, _, data = part.partition(b"\n")
            values = np.frombuffer(data, np.float32)
            bounds = np.cumsum(orjson.loads(line))[:-1]
            for own, theirs in zip(self._overlaps.values(), np.split(values, bounds), strict=True):
                own.append(theirs)

    def scores(self) -> dict[str, TaskScores]:
        """The recall by limit and area, the mean over the thresholds; -1 without objects."""
        areas = self._truth.columns.areas[~self._truth.is_ignored].numpy().astype(np.float32)
        metrics = {}
        for name, (_, area) in _metrics().items():
            low, high = (np.float32(bound) for bound in COCO_AREAS[area])
            objects = int(((areas >= low) & (areas <= high)).sum())
            overlaps = _joined(self._overlaps[name])
            recalls = [(overlaps >= threshold).sum() for threshold in _THRESHOLDS]
            metrics[name] = _mean_recall(np.array(recalls), objects)
        return {TASK: TaskScores(metrics, {}, f"AR@{LIMITS[-1]}")}


def _metrics() -> dict[str, tuple[int, str]]:
    """The limit and the area range of each, in the predecessor's order."""
    return {
        f"AR{suffix}@{limit}": (limit, area)
        for limit, (area, suffix) in product(LIMITS, _SUFFIX.items())
    }


def _overlaps(boxes: Floats, objects_xywh: Floats) -> Floats:
    """float32[P, N], the IoU of continuous boxes xyxy[P, 4] and xywh[N, 4]."""
    first, sides = objects_xywh[:, :2], objects_xywh[:, 2:]
    box_sides = boxes[:, 2:] - boxes[:, :2]
    common = (
        np.minimum(boxes[:, None, 2:], first + sides) - np.maximum(boxes[:, None, :2], first)
    ).clip(min=0)
    intersection = common[..., 0] * common[..., 1]
    union = (box_sides[:, 0] * box_sides[:, 1])[:, None] + sides[:, 0] * sides[:, 1] - intersection
    found: Floats = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return found


def _cover(overlaps: Floats) -> Floats:
    """The overlaps of half and more that objects are given, the best pair first.

    overlaps: float32[P, N]. Weaker ones count at no threshold, and are given after all others.
    """
    box, found = np.nonzero(overlaps >= _THRESHOLDS[0])
    values = overlaps[box, found]
    used_boxes: set[int] = set()
    covered: dict[int, Any] = {}
    # of equal overlaps the first object, and of its proposals the first
    for pair in np.lexsort((box, found, -values)).tolist():
        if int(box[pair]) not in used_boxes and int(found[pair]) not in covered:
            used_boxes.add(int(box[pair]))
            covered[int(found[pair])] = values[pair]
    return np.array(list(covered.values()), dtype=np.float32)


def _joined(parts: Sequence[Floats]) -> Floats:
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def _mean_recall(found: NDArray[np.int64], objects: int) -> float:
    """By torch, whose sum of ten numbers rounds otherwise than NumPy's."""
    if not objects:
        return -1.0
    return float((torch.from_numpy(found).float() / objects).mean())

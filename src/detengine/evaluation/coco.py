"""COCO's scores as the detections come: pycocotools' to the last bit, on any number of ranks.

hotcoco does the matching. It accepts what must be refused, so all checks are made before, and it is
handed positions in the sorted order of the data set's ids, never the ids themselves.
One number is not pycocotools': that notes a match by the annotation's id, and so takes one with the
id 0 for none, an object found for one missed. Here it counts, as under any other id.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray

from detengine.evaluation.coco_metrics import coco_params, metrics_of, summarize
from detengine.evaluation.detections import Detections
from detengine.evaluation.options import ScoringOptions
from detengine.evaluation.result import TaskScores
from detengine.evaluation.truth import Truth

IOU_TYPES = ("bbox", "segm", "keypoints")


class CocoScorer:
    """Keeps the matches of each image, about 50 bytes a detection and iou type.

    Raises ValueError if the ground truth has not what an iou type needs.
    """

    def __init__(self, truth: Truth, iou_types: Sequence[str], options: ScoringOptions) -> None:
        self._truth = truth
        for iou_type in iou_types:
            raise_if_unfit(truth, iou_type, options)
        numbered = [{"id": k, "name": str(k)} for k in range(len(truth.categories))]
        self._metrics = {each: metrics_of(each, options) for each in iou_types}
        self._streams = {
            each: hotcoco.StreamingEval(numbered, each, params=coco_params(each, options))
            for each in iou_types
        }

    @staticmethod
    def tasks_of(iou_types: Sequence[str], options: ScoringOptions) -> dict[str, tuple[str, ...]]:
        """Each task with the names of its metrics."""
        return {each: tuple(metrics_of(each, options)) for each in iou_types}

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self._metrics)

    def update(self, detections: Detections) -> None:
        """Match one image's detections with its annotations."""
        annotations = annotations_of(self._truth, detections)
        for iou_type, stream in self._streams.items():
            found = HANDED_OVER[iou_type](detections)
            stream.update([{"id": detections.image}], annotations, found)

    def matches(self, task: str) -> bytes:
        """The matches of all images seen so far, for another rank's `merge_matches`."""
        return bytes(self._streams[task].to_bytes())

    def merge_matches(self, task: str, parts: Iterable[bytes]) -> None:
        """Take in the `matches` of other ranks; of an image that several have, the last one's.

        parts: read one by one, so that beside the merged matches one rank's are in memory. This
        scorer's own count as the last.
        """
        self._streams[task] = merged(self._streams[task], parts)

    def scores(self) -> dict[str, TaskScores]:
        """The metrics of each task, of all images; none can come afterwards."""
        found = {}
        for iou_type, wanted in self._metrics.items():
            # taken out: the curves need as much memory again as the matches
            evaluation = self._streams.pop(iou_type).finalize()
            evaluation.accumulate()
            metrics, aps = summarize(wanted, evaluation.eval or {}, evaluation.params)
            per_class = dict(zip(self._truth.categories.names, aps, strict=True))
            found[iou_type] = TaskScores(metrics, per_class, main="AP")
        return found


def merged(own: hotcoco.StreamingEval, parts: Iterable[bytes]) -> hotcoco.StreamingEval:
    """The matches of several ranks in one, `own` as the last."""
    others = (hotcoco.StreamingEval.from_bytes(part) for part in parts)
    streams: Iterator[hotcoco.StreamingEval] = chain(others, [own])
    return hotcoco.StreamingEval.merge(streams)


def raise_if_unfit(truth: Truth, iou_type: str, options: ScoringOptions) -> None:
    """Raise ValueError unless the ground truth has what the iou type is about."""
    if iou_type not in IOU_TYPES:
        raise ValueError(f"the iou type {iou_type!r} is none of {', '.join(IOU_TYPES)}")
    if iou_type == "segm":
        truth.raise_without("masks", iou_type)
    if iou_type == "keypoints":
        truth.raise_without("keypoints", iou_type)
        keypoints = truth.columns.keypoints
        sigmas = len(coco_params("keypoints", options).kpt_oks_sigmas)
        if keypoints is not None and keypoints.shape[1] != sigmas:
            raise ValueError(
                f"the objects of the ground truth have {keypoints.shape[1]} keypoints, but there "
                f"are {sigmas} sigmas to measure them by; give one for each "
                "(TEST.KEYPOINT_SIGMAS; COCO's 17 are for a person's)"
            )


def annotations_of(truth: Truth, detections: Detections) -> list[dict[str, Any]]:
    """The annotations of the detections' image, of classes that are scored, as COCO's dicts."""
    columns, rows = truth.columns, truth.rows_of(detections.image)
    categories = truth.category_of_annotation[rows].tolist()
    number = rows.stop - rows.start
    parts: dict[str, list[Any]] = {
        "id": list(range(rows.start + 1, rows.stop + 1)),
        "image_id": [detections.image] * number,
        "category_id": categories,
        "bbox": columns.boxes_xywh[rows].tolist(),
        "area": columns.areas[rows].tolist(),
        "iscrowd": truth.is_ignored[rows].int().tolist(),
    }
    if columns.masks is not None:
        size = list(detections.size)
        strings = columns.masks.between(rows.start, rows.stop)
        parts["segmentation"] = [{"size": size, "counts": each} for each in strings]
    if columns.keypoints is not None and columns.num_keypoints is not None:
        parts["keypoints"] = columns.keypoints[rows].flatten(1).tolist()
        parts["num_keypoints"] = columns.num_keypoints[rows].tolist()
    annotations = zip(*parts.values(), strict=True)
    return [
        dict(zip(parts, annotation, strict=True))
        for annotation, category in zip(annotations, categories, strict=True)
        if category >= 0
    ]


def _boxes(detections: Detections) -> NDArray[np.float64]:
    """Rows of image, x, y, w, h, score, category."""
    rows = np.empty((len(detections), 7))
    rows[:, 0] = detections.image
    rows[:, 1:5] = detections.boxes_xywh
    rows[:, 5] = detections.scores
    rows[:, 6] = detections.categories
    return rows


def _masks(detections: Detections) -> list[dict[str, Any]]:
    """Without boxes, so that each detection's area is that of its mask."""
    return [
        each | {"segmentation": rle}
        for each, rle in zip(_entries(detections), detections.rles or (), strict=True)
    ]


def _keypoints(detections: Detections) -> list[dict[str, Any]]:
    points = detections.keypoints
    flat = [] if points is None else points.reshape(len(points), 3 * points.shape[1]).tolist()
    return [
        {**each, "keypoints": own} for each, own in zip(_entries(detections), flat, strict=True)
    ]


def _entries(detections: Detections) -> Iterator[dict[str, Any]]:
    categories, scores = detections.categories.tolist(), detections.scores.tolist()
    for category, score in zip(categories, scores, strict=True):
        yield {"image_id": detections.image, "category_id": category, "score": score}


HANDED_OVER: dict[str, Callable[[Detections], Any]] = {
    "bbox": _boxes,
    "segm": _masks,
    "keypoints": _keypoints,
}
"""How each iou type hands its detections to hotcoco."""

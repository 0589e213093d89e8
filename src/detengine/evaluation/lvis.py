"""LVIS's scores as the detections come: those of lvis-api, to the last bit.

Nobody looked for every class in every image. In an image only the classes that are annotated in it,
or that it is known to lack, are scored; of a class that may have further objects there, what finds
none of the annotated ones is no false alarm (Gupta et al., LVIS, arXiv 1908.03195, section 3).
hotcoco does the matching.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import hotcoco
import numpy as np

from detengine.evaluation.coco import HANDED_OVER, annotations_of, merged, raise_if_unfit
from detengine.evaluation.coco_metrics import Floats, mean
from detengine.evaluation.detections import Detections
from detengine.evaluation.options import ScoringOptions
from detengine.evaluation.result import TaskScores
from detengine.evaluation.truth import Truth
from detengine.structures.ground_truth import FederatedLabels

_LIMIT = 300
_AREAS = {"s": "small", "m": "medium", "l": "large"}
_FREQUENCIES = ("r", "c", "f")


class LvisScorer:
    """Keeps the matches of each image, about 50 bytes a detection and iou type.

    Of an image's detections the best 300 count, of all classes together; of equal scores the
    earlier. The tasks are lvis_bbox and lvis_segm. Raises ValueError if the ground truth is not of
    LVIS, or has not what an iou type needs.
    """

    def __init__(self, truth: Truth, iou_types: Sequence[str], options: ScoringOptions) -> None:
        federated = truth.columns.federated
        if federated is None:
            raise ValueError(
                "the metric lvis needs to know which classes were looked for in which image, but "
                "the data set does not say it; define it with FORMAT lvis, or set TEST.METRICS to "
                "coco"
            )
        self._truth = truth
        self._federated = federated
        self._position = {id_: k for k, id_ in enumerate(truth.categories.ids)}
        self._frequency = _frequencies(truth, federated)
        self._options = options
        categories = [
            {"id": k, "name": str(k), "frequency": letter}
            for k, letter in enumerate(self._frequency)
        ]
        self._streams = {}
        for iou_type in _scored(iou_types):
            raise_if_unfit(truth, iou_type, options)
            self._streams[f"lvis_{iou_type}"] = hotcoco.StreamingEval(
                categories, iou_type, lvis_style=True, params=_params(iou_type, options)
            )
        self._tasks = tuple(self._streams)

    @staticmethod
    def tasks_of(iou_types: Sequence[str], options: ScoringOptions) -> dict[str, tuple[str, ...]]:
        """Each task with the names of its metrics."""
        names = tuple(_metrics(_params("bbox", options), ()))
        return {f"lvis_{iou_type}": names for iou_type in _scored(iou_types)}

    @property
    def tasks(self) -> tuple[str, ...]:
        return self._tasks

    def update(self, detections: Detections) -> None:
        """Match one image's detections with its annotations."""
        detections = _best(detections, _limit(self._options))
        index = self._truth.index_of(detections.image)
        image = {
            "id": detections.image,
            "neg_category_ids": self._positions(self._federated.negative_ids(index)),
            "not_exhaustive_category_ids": self._positions(
                self._federated.not_exhaustive_ids(index)
            ),
        }
        annotations = annotations_of(self._truth, detections)
        for task, stream in self._streams.items():
            found = HANDED_OVER[task.removeprefix("lvis_")](detections)
            stream.update([image], annotations, found)

    def matches(self, task: str) -> bytes:
        """The matches of all images seen so far, for another rank's `merge_matches`."""
        return bytes(self._streams[task].to_bytes())

    def merge_matches(self, task: str, parts: Iterable[bytes]) -> None:
        """Take in the `matches` of other ranks, read one by one."""
        self._streams[task] = merged(self._streams[task], parts)

    def scores(self) -> dict[str, TaskScores]:
        """The metrics of each task, of all images; none can come afterwards."""
        found = {}
        for task in self._tasks:
            # taken out: the curves need as much memory again as the matches
            evaluation = self._streams.pop(task).finalize()
            evaluation.accumulate()
            curves: dict[str, Floats] = evaluation.eval or {}
            metrics = {
                name: mean(_part(curves[curve], evaluation.params, **where))
                for name, (curve, where) in _metrics(evaluation.params, self._frequency).items()
            }
            precision = _part(curves["precision"], evaluation.params)
            aps = [mean(precision[..., k]) for k in range(precision.shape[-1])]
            per_class = dict(zip(self._truth.categories.names, aps, strict=True))
            found[task] = TaskScores(metrics, per_class, main="AP")
        return found

    def _positions(self, category_ids: Sequence[int]) -> list[int]:
        """Those of them that are scored."""
        return [self._position[id_] for id_ in category_ids if id_ in self._position]


def _scored(iou_types: Sequence[str]) -> list[str]:
    return [each for each in iou_types if each in ("bbox", "segm")]


def _limit(options: ScoringOptions) -> int:
    return _LIMIT if options.max_detections is None else options.max_detections[-1]


def _frequencies(truth: Truth, federated: FederatedLabels) -> list[str]:
    """The letter of each category that is scored."""
    names = truth.columns.categories.names
    letter = dict(zip(names, federated.frequencies, strict=True))
    return [letter[name] for name in truth.categories.names]


def _params(iou_type: str, options: ScoringOptions) -> hotcoco.Params:
    params = hotcoco.Params(iou_type)
    params.max_dets = [_limit(options)]
    if options.iou_thresholds is not None:
        params.iou_thrs = list(options.iou_thresholds)
    return params


def _best(detections: Detections, limit: int) -> Detections:
    if len(detections) <= limit:
        return detections
    return detections.at(np.argsort(-detections.scores, kind="stable")[:limit])


def _metrics(params: Any, frequency: Sequence[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Each metric's curve and the part of it that is meant, in lvis-api's order."""
    limit = params.max_dets[-1]
    found: dict[str, tuple[str, dict[str, Any]]] = {"AP": ("precision", {})}
    for iou in (0.5, 0.75):
        if np.isclose(params.iou_thrs, iou).any():
            found[f"AP{round(100 * iou)}"] = ("precision", {"iou": iou})
    found |= {f"AP{letter}": ("precision", {"area": area}) for letter, area in _AREAS.items()}
    for letter in _FREQUENCIES:
        own = [k for k, each in enumerate(frequency) if each == letter]
        found[f"AP{letter}"] = ("precision", {"categories": own})
    found[f"AR@{limit}"] = ("recall", {})
    areas = _AREAS.items()
    return found | {f"AR{letter}@{limit}": ("recall", {"area": area}) for letter, area in areas}


def _part(
    curve: Floats,
    params: Any,
    *,
    iou: float | None = None,
    area: str = "all",
    categories: Sequence[int] | None = None,
) -> Floats:
    """The categories are the last axis of what is given back."""
    part = curve[..., params.area_rng_lbl.index(area), -1]
    if iou is not None:
        part = part[np.isclose(params.iou_thrs, iou)]
    return part if categories is None else part[..., list(categories)]

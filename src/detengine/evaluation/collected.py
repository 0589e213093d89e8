"""All of a data set's detections at once, for what needs more than a streamed evaluator keeps."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, compress
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray

from detengine.evaluation.coco import HANDED_OVER, annotations_of, raise_if_unfit
from detengine.evaluation.coco_metrics import coco_params, metrics_of, summarize
from detengine.evaluation.detections import Detections, Positions
from detengine.evaluation.evaluator import Evaluator
from detengine.evaluation.image_tally import OnWrongImages
from detengine.evaluation.options import ScoringOptions
from detengine.evaluation.result import EvaluationResult, TaskScores
from detengine.evaluation.truth import Truth
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.prediction import Prediction

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Collected:
    """A scorer that keeps the detections themselves, of one iou type, and scores them in one piece.

    Its numbers are CocoScorer's to the last bit. D detections stand in the order of their images'
    positions, and within an image as they were predicted; hotcoco is handed positions for all ids.
    Raises ValueError if the ground truth has not what the iou type needs.
    """

    def __init__(self, truth: Truth, iou_types: Sequence[str], options: ScoringOptions) -> None:
        (self.iou_type,) = iou_types
        raise_if_unfit(truth, self.iou_type, options)
        self.truth = truth
        self.options = options
        self._detections: list[Detections] = []

    @property
    def tasks(self) -> tuple[str, ...]:
        return (self.iou_type,)

    def update(self, detections: Detections) -> None:
        """Keep one image's detections."""
        self._detections.append(detections)

    def matches(self, task: str) -> bytes:
        raise NotImplementedError("detections are collected in one process")

    def merge_matches(self, task: str, parts: Iterable[bytes]) -> None:
        raise NotImplementedError("detections are collected in one process")

    def scores(self) -> dict[str, TaskScores]:
        """The metrics; all images must have come. Afterwards everything below can be asked for."""
        self._detections.sort(key=lambda each: each.image)
        self._annotations = [
            annotation
            for each in self._detections
            for annotation in annotations_of(self.truth, each)
        ]
        self.detection_scores = np.concatenate(
            [np.zeros(0), *(each.scores for each in self._detections)]
        )
        evaluation = self.evaluation(coco_params(self.iou_type, self.options))
        evaluation.accumulate()
        self.curves: dict[str, Floats] = evaluation.eval or {}
        wanted = metrics_of(self.iou_type, self.options)
        metrics, aps = summarize(wanted, self.curves, evaluation.params)
        per_class = dict(zip(self.truth.categories.names, aps, strict=True))
        return {self.iou_type: TaskScores(metrics, per_class, main="AP")}

    @property
    def num_annotations(self) -> int:
        """N, of the whole ground truth; an annotation's id is its position and 1."""
        return len(self.truth.columns.annotation_ids)

    def images_and_categories(self) -> tuple[Positions, Positions]:
        """int64[D], int64[D]: of each detection, positions."""
        lengths = [len(each) for each in self._detections]
        images = np.repeat([each.image for each in self._detections], lengths)
        nothing = np.zeros(0, np.int64)
        categories = np.concatenate([nothing, *(each.categories for each in self._detections)])
        return images, categories

    def images_and_categories_of_annotations(self) -> tuple[Positions, Positions]:
        """int64[N], int64[N]: of each annotation, positions; -1 for a class that is not scored."""
        images = np.zeros(self.num_annotations, np.int64)
        for image in range(len(self.truth)):
            images[self.truth.rows_of(image)] = image
        return images, self.truth.category_of_annotation.numpy()

    def evaluation(
        self,
        params: hotcoco.Params,
        *,
        kept: Flags | None = None,
        with_ignored: bool = True,
    ) -> hotcoco.COCOeval:
        """hotcoco's evaluator, after matching. Detection n, from 0, has the id n + 1 in it.

        kept: bool[D], the detections that take part; only they are numbered then. with_ignored
        False: as if crowds and difficult ones were not there.
        """
        if kept is None and with_ignored:
            evaluation = hotcoco.COCOeval(*self._everything, self.iou_type)
        else:
            evaluation = hotcoco.COCOeval(*self._both(kept, with_ignored), self.iou_type)
        params.cat_ids = params.cat_ids or list(range(len(self.truth.categories)))
        params.img_ids = list(range(len(self.truth)))
        evaluation.params = params
        evaluation.evaluate()
        return evaluation

    @cached_property
    def _everything(self) -> tuple[hotcoco.COCO, hotcoco.COCO]:
        return self._both(None, with_ignored=True)

    def _both(self, kept: Flags | None, with_ignored: bool) -> tuple[hotcoco.COCO, hotcoco.COCO]:
        """The ground truth and the detections."""
        truth = hotcoco.COCO(self._dataset(with_ignored))
        return truth, truth.load_res(self._rows(kept))

    def _dataset(self, with_ignored: bool) -> dict[str, Any]:
        return {
            "images": [
                {"id": each.image, "height": each.size[0], "width": each.size[1]}
                for each in self._detections
            ],
            "categories": [{"id": k, "name": str(k)} for k in range(len(self.truth.categories))],
            "annotations": [
                each for each in self._annotations if with_ignored or not each["iscrowd"]
            ],
        }

    def _rows(self, kept: Flags | None) -> Any:
        parts: Iterator[Any] = map(HANDED_OVER[self.iou_type], self._detections)
        if self.iou_type == "bbox":
            rows = np.concatenate([np.zeros((0, 7)), *parts])
            return rows if kept is None else rows[kept]
        return list(chain(*parts) if kept is None else compress(chain(*parts), kept))


def collect(
    ground_truth: GroundTruth,
    predictions: Iterable[tuple[int, Prediction | Detections]],
    class_names: Sequence[str],
    iou_type: str,
    *,
    options: ScoringOptions | None = None,
    on_wrong_images: OnWrongImages = "error",
) -> tuple[Collected, EvaluationResult]:
    """All detections, checked as for scoring, and their scores. Raises ValueError as Evaluator.

    Also raises ValueError if the options ask for other metrics than COCO's, by whose rules
    detections are matched here.
    """
    options = options or ScoringOptions()
    if "coco" not in options.metrics:
        raise ValueError(
            f"the data set is scored by {', '.join(options.metrics)}, but detections are analysed "
            "and compared as COCO matches them. If that is meant, set TEST.METRICS to [coco]."
        )
    made: list[Collected] = []

    def make(truth: Truth, iou_types: Sequence[str], options: ScoringOptions) -> list[Collected]:
        made.append(Collected(truth, iou_types, options))
        return made

    evaluator = Evaluator(
        ground_truth,
        class_names,
        (iou_type,),
        options=options,
        on_wrong_images=on_wrong_images,
        make_scorers=make,
    )
    for image_id, prediction in predictions:
        evaluator.update(image_id, prediction)
    return made[0], evaluator.result()

"""Scores a data set one image at a time, by every metric asked for, on any number of ranks."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import orjson

from detengine.evaluation.detections import (
    Detections,
    checked_labels,
    detections_of,
    no_detections,
    raise_if_boxes_unfit,
    raise_if_keypoints_unfit,
    raise_if_masks_unfit,
    raise_if_size_differs,
)
from detengine.evaluation.image_tally import ImageTally, OnWrongImages
from detengine.evaluation.options import ScoringOptions
from detengine.evaluation.reasons import Counts, reason_for
from detengine.evaluation.result import EvaluationResult
from detengine.evaluation.scorers import Scorer, make_scorers
from detengine.evaluation.truth import Truth
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.prediction import Prediction

logger = logging.getLogger("detengine.inference")

_LISTED = 10

MakeScorers = Callable[[Truth, Sequence[str], ScoringOptions], Sequence[Scorer]]


class Evaluator:
    """Checks each image's predictions and hands them to the scorers, which keep matches only.

    class_names: the names of the labels 1..K; they meet the data set's categories by name. What
    only one side has is not scored, and a log line says so: detections of classes that are not the
    data set's are dropped, and so is ground truth of classes that are not the model's.
    iou_types: what the predictions have, any of "bbox", "segm", "keypoints".
    options: by which metrics, and how; `scorers.SCORERS` has them all.
    on_wrong_images: an image of the data set that was not predicted, one that was predicted twice,
    and one that is not the data set's are an error of `result`, or with "warn" a warning: a missing
    one counts as without detections, a doubled one once (the first prediction, of the lowest rank),
    a foreign one not.
    make_scorers: who is handed the checked detections; by default the scorers of options.metrics.
    Raises ValueError if the ground truth has not what a metric needs, or nothing is scored.
    """

    def __init__(
        self,
        ground_truth: GroundTruth,
        class_names: Sequence[str],
        iou_types: Sequence[str] = ("bbox",),
        *,
        options: ScoringOptions | None = None,
        on_wrong_images: OnWrongImages = "error",
        make_scorers: MakeScorers = make_scorers,
    ) -> None:
        options = options or ScoringOptions()
        self._truth = Truth(ground_truth, class_names)
        self._class_names = tuple(class_names)
        self._iou_types = tuple(iou_types)
        self._are_proposals = options.metrics == ("proposals",)
        self._category_of_label = self._truth.categories_of_labels().numpy()
        self._scorers = tuple(make_scorers(self._truth, iou_types, options))
        self._scorer_of = {task: scorer for scorer in self._scorers for task in scorer.tasks}
        if not self._scorer_of:
            raise ValueError(
                f"the metrics {', '.join(options.metrics)} score nothing of the iou types "
                f"{', '.join(iou_types) or '[]'}; ask for bbox or segm, or set TEST.METRICS to coco"
            )
        self._tally = ImageTally(self._truth)
        self._on_wrong_images = on_wrong_images
        self._result: EvaluationResult | None = None
        self._dropped: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self._scorer_of)

    def update(self, image_id: int, prediction: Prediction | Detections) -> bool:
        """Match one image's predictions, in the pixels of the stored image.

        Detections are taken as they are: they were checked where they were read. Returns whether
        it was scored: an image that is not in the ground truth, or has been scored before, is only
        noted for `result`. Raises ValueError, and leaves the evaluator as it was, if the prediction
        is not one of this image, or `result` was asked for.
        """
        image = self._admit(image_id)
        if image is None:
            return False
        if isinstance(prediction, Detections):
            self._score(prediction)
            return True
        where = self._truth.name_of(image)
        raise_if_size_differs(prediction.size, self._truth.size_of(image), where)
        raise_if_boxes_unfit(prediction.boxes_xyxy, prediction.scores, where)
        prediction = self._with_parts(prediction, where)
        if self._are_proposals:
            every = np.arange(len(prediction))
            self._score(detections_of(prediction, image, where, every, np.zeros_like(every)))
            return True
        labels = checked_labels(prediction, len(self._class_names), where)
        categories = self._category_of_label[labels]
        known = np.flatnonzero(categories >= 0)
        self._score(detections_of(prediction, image, where, known, categories[known]))
        self._dropped.update(self._class_names[k - 1] for k in labels[categories < 0].tolist())
        return True

    def notes(self) -> bytes:
        """Which images were seen, for another rank's `merge_notes`: a bit for each image."""
        header = {"tasks": self.tasks, "dropped": self._dropped, "counts": self._counts}
        return orjson.dumps(header) + b"\n" + self._tally.to_bytes()

    def merge_notes(self, parts: Iterable[bytes]) -> None:
        """Take in the `notes()` of other ranks' evaluators, which are built alike."""
        for part in parts:
            line, _, tally = part.partition(b"\n")
            header = orjson.loads(line)
            if header["tasks"] != list(self.tasks):
                raise ValueError(
                    f"this evaluator scores {', '.join(self.tasks)}, but a part to merge scores "
                    f"{', '.join(header['tasks'])}: build all ranks' evaluators alike"
                )
            self._tally.merge(tally)
            self._dropped.update(header["dropped"])
            self._counts = _merged(self._counts, header["counts"])

    def matches(self, task: str) -> bytes:
        """The matches of all images seen so far, for another rank's `merge_matches`."""
        return self._scorer_of[task].matches(task)

    def merge_matches(self, task: str, parts: Iterable[bytes]) -> None:
        """Take in the `matches` of other ranks; of an image that several have, the last one's.

        parts: read one by one, so that beside the merged matches one rank's are in memory. This
        evaluator's own count as the last.
        """
        self._scorer_of[task].merge_matches(task, parts)

    def result(self) -> EvaluationResult:
        """The scores of all images; none can come afterwards.

        Raises ValueError if images are missing, doubled or not the data set's, with the first ten
        ids of each kind; with on_wrong_images "warn" it says the same in a warning.
        """
        if self._result is not None:
            return self._result
        problems = " ".join(self._tally.problems())
        if problems and self._on_wrong_images == "error":
            raise ValueError(problems)
        if problems:
            logger.warning("%s (TEST.ON_WRONG_IMAGES is warn)", problems)
        self._fill()
        self._log_dropped()
        metrics, per_class, reasons = {}, {}, {}
        for scorer in self._scorers:
            for task, scores in scorer.scores().items():
                metrics[task] = scores.metrics
                if scores.per_class:
                    per_class[task] = scores.per_class
                reason = reason_for(scores.metrics[scores.main], self._all_counts())
                if reason:
                    reasons[task] = f"{scores.main} is {scores.metrics[scores.main]:.0f}: {reason}"
        self._result = EvaluationResult(metrics, per_class, len(self._truth), reasons)
        return self._result

    def _fill(self) -> None:
        """Count every image that has not come as one in which nothing was found."""
        keypoints = self._truth.columns.keypoints
        num_keypoints = 0 if keypoints is None else keypoints.shape[1]
        for image in self._tally.missing():
            # without a size there are no masks to read
            size = self._truth.size_of(image) or (1, 1)
            where = self._truth.name_of(image)
            self._score(no_detections(image, where, size, num_keypoints))

    def _admit(self, image_id: int) -> int | None:
        if self._result is not None:
            raise ValueError(
                f"image {image_id} comes after the result was asked for; score all images first"
            )
        return self._tally.admit(image_id)

    def _with_parts(self, prediction: Prediction, where: str) -> Prediction:
        """The prediction with its masks encoded; ValueError if an iou type's part is missing."""
        if "segm" in self._iou_types:
            prediction = prediction.encoded()
            raise_if_masks_unfit(prediction, where)
        keypoints = self._truth.columns.keypoints
        if "keypoints" in self._iou_types:
            given = 0 if prediction.keypoints is None else prediction.keypoints.shape[1]
            number = given if keypoints is None else keypoints.shape[1]
            raise_if_keypoints_unfit(prediction, number, where)
        return prediction

    def _score(self, detections: Detections) -> None:
        for scorer in self._scorers:
            scorer.update(detections)
        self._tally.mark(detections.image)
        self._counts["detections"] += len(detections)
        if len(detections):
            furthest = int(np.ceil(detections.boxes_xyxy.max()))
            self._counts["furthest"] = max(self._counts["furthest"], furthest)

    def _all_counts(self) -> Counts:
        scored = self._truth.category_of_annotation >= 0
        is_ignored = self._truth.is_ignored
        return Counts(
            images=len(self._truth),
            objects=int((scored & ~is_ignored).sum()),
            ignored_objects=int((scored & is_ignored).sum()),
            detections=self._counts["detections"],
            dropped=self._dropped.total(),
            furthest=self._counts["furthest"] if "bbox" in self._iou_types else None,
        )

    def _log_dropped(self) -> None:
        if self._dropped:
            classes = ", ".join(f"{name} ({n})" for name, n in self._dropped.most_common(_LISTED))
            logger.warning(
                "%d detections of classes that the data set does not have were dropped: %s",
                self._dropped.total(),
                classes,
            )


def _merged(one: Counter[str], other: dict[str, int]) -> Counter[str]:
    furthest = max(one["furthest"], other.get("furthest", 0))
    return Counter({**(one + Counter(other)), "furthest": furthest})

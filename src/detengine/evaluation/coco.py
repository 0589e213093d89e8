"""COCO's scores as the predictions come: pycocotools' to the last bit, on any number of ranks.

hotcoco does the matching. It accepts what must be refused, so all checks are here. It is handed
positions in the sorted order of the data set's ids, never the ids themselves: they may be negative,
or too large for its columns, and the order is all that the scores depend on.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import hotcoco
import numpy as np
import orjson

from detengine.evaluation.coco_detections import DETECTIONS, checked_labels, raise_if_part_missing
from detengine.evaluation.coco_metrics import summarize
from detengine.evaluation.coco_truth import CocoTruth
from detengine.evaluation.image_tally import ImageTally, OnWrongImages
from detengine.evaluation.result import EvaluationResult
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.prediction import Prediction

logger = logging.getLogger("detengine.inference")

_LISTED = 10


class CocoEvaluator:
    """Scores one image at a time and keeps its matches only, about 50 bytes a detection.

    class_names: the names of the labels 1..K; they meet the data set's categories by name. What
    only one side has is not scored, and a log line says so: detections of classes that are not the
    data set's are dropped, and so is ground truth of classes that are not the model's.
    iou_types: any of "bbox", "segm", "keypoints".
    on_wrong_images: an image of the data set that was not predicted, one that was predicted twice,
    and one that is not the data set's are an error of `result`, or with "warn" a warning: a missing
    one counts as without detections, a doubled one once (the first prediction, of the lowest rank),
    a foreign one not.
    One number is not pycocotools': it notes a match by the annotation's id, and so takes one with
    the id 0 for none, an object found for one missed. Here it counts, as under any other id.
    Raises ValueError if the ground truth has not what an iou type needs.
    """

    def __init__(
        self,
        ground_truth: GroundTruth,
        class_names: Sequence[str],
        iou_types: Sequence[str] = ("bbox",),
        *,
        on_wrong_images: OnWrongImages = "error",
    ) -> None:
        self._truth = CocoTruth(ground_truth, class_names)
        self._class_names = tuple(class_names)
        for iou_type in iou_types:
            self._truth.raise_if_unfit_for(iou_type)
        categories = self._truth.categories
        positions = {category_id: k for k, category_id in enumerate(categories.ids)}
        self._category_of_label = np.array(
            [-1]
            + [
                -1 if category_id is None else positions[category_id]
                for category_id in categories.ids_of_labels(class_names)
            ]
        )
        numbered = [{"id": k, "name": str(k)} for k in range(len(categories))]
        self._streams = {each: hotcoco.StreamingEval(numbered, each) for each in iou_types}
        self._tally = ImageTally(self._truth)
        self._on_wrong_images = on_wrong_images
        self._result: EvaluationResult | None = None
        self._dropped: Counter[str] = Counter()

    @property
    def iou_types(self) -> tuple[str, ...]:
        return tuple(self._streams)

    def update(self, image_id: int, prediction: Prediction) -> bool:
        """Match one image's predictions, in the pixels of the stored image.

        Returns whether it was scored: an image that is not in the ground truth, or has been scored
        before, is only noted for `result`. Raises ValueError, and leaves the evaluator as it was,
        if the prediction is not one of this image, or `result` was asked for.
        """
        if self._result is not None:
            raise ValueError(
                f"image {image_id} comes after the result was asked for; score all images first"
            )
        image = self._tally.admit(image_id)
        if image is None:
            return False
        where = self._truth.name_of(image)
        size = self._truth.size_of(image)
        labels = checked_labels(prediction, size, len(self._class_names), where)
        if "segm" in self._streams:
            prediction = prediction.encoded()
        for iou_type in self._streams:
            raise_if_part_missing(prediction, iou_type, where)
        categories = self._category_of_label[labels]
        known = np.flatnonzero(categories >= 0)
        truth = self._truth.annotations(image, prediction.size)
        for iou_type, stream in self._streams.items():
            detections = DETECTIONS[iou_type](prediction, image, known, categories[known])
            stream.update([{"id": image}], truth, detections)
        self._tally.mark(image)
        self._dropped.update(self._class_names[k - 1] for k in labels[categories < 0].tolist())
        return True

    def notes(self) -> bytes:
        """Which images were seen, for another rank's `merge_notes`: a bit for each image."""
        header = orjson.dumps({"iou_types": list(self._streams), "dropped": self._dropped})
        return header + b"\n" + self._tally.to_bytes()

    def merge_notes(self, parts: Iterable[bytes]) -> None:
        """Take in the `notes()` of other ranks' evaluators, which are built alike."""
        for part in parts:
            line, _, tally = part.partition(b"\n")
            header = orjson.loads(line)
            if header["iou_types"] != list(self._streams):
                raise ValueError(
                    f"this evaluator scores {', '.join(self._streams)}, but a part to merge scores "
                    f"{', '.join(header['iou_types'])}: build all ranks' evaluators alike"
                )
            self._tally.merge(tally)
            self._dropped.update(header["dropped"])

    def matches(self, iou_type: str) -> bytes:
        """The matches of all images seen so far, for another rank's `merge_matches`."""
        return bytes(self._streams[iou_type].to_bytes())

    def merge_matches(self, iou_type: str, parts: Iterable[bytes]) -> None:
        """Take in the `matches` of other ranks; of an image that several have, the last one's.

        parts: read one by one, so that beside the merged matches one rank's are in memory. This
        evaluator's own count as the last.
        """
        others = (hotcoco.StreamingEval.from_bytes(part) for part in parts)
        streams: Iterator[hotcoco.StreamingEval] = chain(others, [self._streams[iou_type]])
        self._streams[iou_type] = hotcoco.StreamingEval.merge(streams)

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
        for image in self._tally.missing():
            self._score_without_detections(image)
        self._log_dropped()
        metrics, per_class = {}, {}
        for iou_type, stream in self._streams.items():
            evaluation = stream.finalize()
            evaluation.accumulate()
            curves = evaluation.eval or {}
            metrics[iou_type], aps = summarize(iou_type, curves, evaluation.params)
            per_class[iou_type] = dict(zip(self._truth.categories.names, aps, strict=True))
        self._result = EvaluationResult(metrics, per_class, len(self._truth))
        return self._result

    def _score_without_detections(self, image: int) -> None:
        size = self._truth.size_of(image) or (1, 1)  # without a size there are no masks to read
        truth = self._truth.annotations(image, size)
        for stream in self._streams.values():
            stream.update([{"id": image}], truth, [])
        self._tally.mark(image)

    def _log_dropped(self) -> None:
        if self._dropped:
            classes = ", ".join(f"{name} ({n})" for name, n in self._dropped.most_common(_LISTED))
            logger.warning(
                "%d detections of classes that the data set does not have were dropped: %s",
                self._dropped.total(),
                classes,
            )

"""COCO's scores as the predictions come: pycocotools' to the last bit, on any number of ranks.

hotcoco does the matching. It accepts what must be refused, so all checks are here. It is handed
positions in the sorted order of the data set's ids, never the ids themselves: they may be negative,
or too large for its columns, and the order is all that the scores depend on.
"""

import copy
import logging
from collections import Counter
from collections.abc import Iterable, Sequence

import hotcoco
import numpy as np
import orjson

from detengine.evaluation.coco_detections import DETECTIONS, checked_labels, raise_if_part_missing
from detengine.evaluation.coco_metrics import summarize
from detengine.evaluation.coco_truth import CocoTruth
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
    One number is not pycocotools': it notes a match by the annotation's id, and so takes one with
    the id 0 for none, an object found for one missed. Here it counts, as under any other id.
    Raises ValueError if the ground truth has not what an iou type needs.
    """

    def __init__(
        self,
        ground_truth: GroundTruth,
        class_names: Sequence[str],
        iou_types: Sequence[str] = ("bbox",),
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
        self._seen: set[int] = set()
        self._dropped: Counter[str] = Counter()

    def update(self, image_id: int, prediction: Prediction) -> None:
        """Match one image's predictions, in the pixels of the stored image.

        Raises ValueError, and leaves the evaluator as it was, if the image is not in the ground
        truth or has been scored before, or if the prediction is not one of this image.
        """
        image = self._truth.position(image_id)
        where = self._truth.name_of(image)
        if image in self._seen:
            raise ValueError(
                f"{where} was evaluated before: each image must be scored exactly once. "
                "Do two ranks or two batches hold it?"
            )
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
        self._seen.add(image)
        self._dropped.update(self._class_names[k - 1] for k in labels[categories < 0].tolist())

    def to_bytes(self) -> bytes:
        """Everything seen so far, to be sent to another rank's `merge`."""
        states = [stream.to_bytes() for stream in self._streams.values()]
        header = orjson.dumps(
            {
                "iou_types": list(self._streams),
                "seen": sorted(self._seen),
                "dropped": self._dropped,
                "lengths": [len(state) for state in states],
            }
        )
        return b"\n".join([header, b"".join(states)])

    def merge(self, parts: Iterable[bytes]) -> None:
        """Take in what the evaluators of other ranks, built alike, have seen (their `to_bytes()`).

        Raises ValueError if an image was scored by two of them.
        """
        streams = {iou_type: [stream] for iou_type, stream in self._streams.items()}
        for part in parts:
            line, _, states = part.partition(b"\n")
            header = orjson.loads(line)
            if header["iou_types"] != list(streams):
                raise ValueError(
                    f"this evaluator scores {', '.join(streams)}, but a part to merge scores "
                    f"{', '.join(header['iou_types'])}: build all ranks' evaluators alike"
                )
            twice = sorted(self._seen.intersection(header["seen"]))
            if twice:
                raise ValueError(
                    f"{len(twice)} images were evaluated on two ranks: "
                    f"{self._truth.list_of(twice)}. Each image must be scored exactly once: "
                    "shard the data set without padding."
                )
            self._seen.update(header["seen"])
            self._dropped.update(header["dropped"])
            for iou_type, length in zip(streams, header["lengths"], strict=True):
                streams[iou_type].append(hotcoco.StreamingEval.from_bytes(states[:length]))
                states = states[length:]
        self._streams = {
            iou_type: hotcoco.StreamingEval.merge(each) for iou_type, each in streams.items()
        }

    def result(self) -> EvaluationResult:
        """The scores of all images. Raises ValueError if one has not been scored."""
        missing = [image for image in range(len(self._truth)) if image not in self._seen]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(self._truth)} images have no prediction: "
                f"{self._truth.list_of(missing)}. Each image must be scored, also one without "
                "detections (as an empty Prediction)."
            )
        self._log_dropped()
        metrics, per_class = {}, {}
        for iou_type, stream in self._streams.items():
            evaluation = copy.copy(stream).finalize()
            evaluation.accumulate()
            curves = evaluation.eval or {}
            metrics[iou_type], aps = summarize(iou_type, curves, evaluation.params)
            per_class[iou_type] = dict(zip(self._truth.categories.names, aps, strict=True))
        return EvaluationResult(metrics, per_class, len(self._truth))

    def _log_dropped(self) -> None:
        if self._dropped:
            classes = ", ".join(f"{name} ({n})" for name, n in self._dropped.most_common(_LISTED))
            logger.warning(
                "%d detections of classes that the data set does not have were dropped: %s",
                self._dropped.total(),
                classes,
            )

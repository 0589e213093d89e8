"""COCO's result files: [{"image_id": 42, "category_id": 18, "bbox": [x, y, w, h], "score": 0.9}].

With `segmentation` (an RLE) or `keypoints` in the place of `bbox`, or beside it: the format of the
COCO server (cocodataset.org/#format-results). What it does not mention was not found.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch

from detengine.disk.writing import remove, whole_file
from detengine.evaluation.coco_entries import (
    PART_OF_IOU_TYPE,
    Entry,
    box_of,
    mask_of,
    numbers_of,
    score_of,
    size_of_mask,
    whole_number_of,
)
from detengine.evaluation.described_results import in_ids_of, is_described
from detengine.evaluation.detections import Detections, no_detections
from detengine.evaluation.predictions_file import load_predictions
from detengine.evaluation.truth import Truth
from detengine.structures.categories import Categories
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.prediction import Prediction

_LISTED = 10


class CocoResults:
    """The entries of a result file by image, in the file's order.

    ground_truth: needed for a file that says what its ids mean (`described_results`), whose entries
    are those of the images and classes of the same names.
    Raises FileNotFoundError, or ValueError for what is no result file, naming it and the entry.
    """

    def __init__(self, path: str | Path, ground_truth: GroundTruth | None = None) -> None:
        self.path = Path(path)
        self._entries = _read(self.path, ground_truth)
        self._of_image: dict[int, list[int]] = {}
        for number, entry in enumerate(self._entries):
            image_id = whole_number_of(self.path, number, entry, "image_id")
            self._of_image.setdefault(image_id, []).append(number)

    def iou_types(self) -> tuple[str, ...]:
        """What all entries have; ("bbox",) if there are none."""
        if not self._entries:
            return ("bbox",)
        found = tuple(
            iou_type
            for iou_type, part in PART_OF_IOU_TYPE.items()
            if all(part in entry for entry in self._entries)
        )
        return found or ("bbox",)

    def raise_if_foreign(self, ground_truth: GroundTruth) -> None:
        """Raise ValueError for images and categories that the ground truth does not have."""
        known_images = ground_truth.image_ids.tolist()
        unknown = sorted(set(self._of_image) - set(known_images))
        if unknown:
            raise ValueError(
                f"{self.path}: {len(unknown)} of {len(self._of_image)} image ids of the "
                f"predictions do not exist in the ground truth: {_first(unknown)}; it has "
                f"{len(known_images)} images: {_first(known_images)}"
            )
        categories = ground_truth.categories
        given = {
            whole_number_of(self.path, number, entry, "category_id")
            for number, entry in enumerate(self._entries)
        }
        foreign = sorted(given - set(categories.ids))
        if foreign:
            raise ValueError(
                f"{self.path}: {len(given) - len(foreign)} of {len(given)} category ids of the "
                f"predictions exist in the ground truth; it does not have {_first(foreign)}. Its "
                f"categories: {_named(categories)}. Are they labels 1, 2, ... in the place of "
                "category ids?"
            )

    def detections(
        self, truth: Truth, iou_types: Sequence[str]
    ) -> Iterator[tuple[int, Detections]]:
        """The id and the detections of every image of the truth, in the file's precision.

        Images of the ground truth that the file does not mention come last, without detections.
        Raises ValueError, naming image and entry, for what cannot be scored.
        """
        keypoints = truth.columns.keypoints
        joints = self._count_keypoints() if keypoints is None else keypoints.shape[1]
        for image_id, numbers in self._of_image.items():
            image = truth.find(image_id)
            if image is not None:
                found = self._detections_of(image, numbers, truth, iou_types, joints)
                yield image_id, found
        for image, image_id in enumerate(truth.ids_of(range(len(truth)))):
            if image_id not in self._of_image:
                size = truth.size_of(image) or (1, 1)
                yield image_id, no_detections(image, truth.name_of(image), size, joints)

    def _detections_of(
        self,
        image: int,
        numbers: Sequence[int],
        truth: Truth,
        iou_types: Sequence[str],
        joints: int,
    ) -> Detections:
        where = f"{self.path}: {truth.name_of(image)}"
        size = truth.size_of(image) or size_of_mask(self._entries[numbers[0]])
        position = {id_: k for k, id_ in enumerate(truth.categories.ids)}
        scored = [n for n in numbers if self._entries[n]["category_id"] in position]
        entries = [self._entries[n] for n in scored]
        boxes_xywh = np.zeros((len(entries), 4))
        rles, points = None, None
        if "bbox" in iou_types:
            boxes_xywh = np.array(self._each(box_of, scored)).reshape(-1, 4)
        if "segm" in iou_types:
            rles = [mask_of(self.path, n, e, size) for n, e in zip(scored, entries, strict=True)]
        if "keypoints" in iou_types:
            flat = [
                numbers_of(self.path, n, self._entries[n], "keypoints", 3 * joints) for n in scored
            ]
            points = np.array(flat, np.float64).reshape(-1, joints, 3)
        return Detections(
            image,
            where,
            size,
            boxes_xyxy=np.concatenate(
                [boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1
            ),
            boxes_xywh=boxes_xywh,
            scores=np.array(self._each(score_of, scored), np.float64),
            categories=np.array([position[e["category_id"]] for e in entries], np.int64),
            rles=rles,
            keypoints=points,
        )

    def _count_keypoints(self) -> int:
        """J, from the first entry with keypoints; 0 if there is none."""
        given = (entry.get("keypoints") for entry in self._entries)
        return next((len(each) // 3 for each in given if isinstance(each, list)), 0)

    def _each(self, read: Callable[[Path, int, Entry], Any], numbers: Sequence[int]) -> list[Any]:
        return [read(self.path, number, self._entries[number]) for number in numbers]


def write_coco_results(
    folder: Path,
    categories: Categories,
    class_names: Sequence[str],
    iou_types: Sequence[str],
) -> None:
    """Write `bbox.json`, `segm.json` and `keypoints.json`, as the COCO server takes them.

    Of the predictions stored in the folder, image by image. class_names: of the labels 1..K; what
    the data set does not have is left out.
    """
    category_of_label = [None, *categories.ids_of_labels(class_names)]
    for iou_type in iou_types:
        with whole_file(folder / f"{iou_type}.json") as aside, aside.open("wb") as file:
            separator = b"[\n"
            for image_id, prediction in load_predictions(folder):
                for entry in coco_entries(image_id, prediction, (iou_type,), category_of_label):
                    file.write(separator + orjson.dumps(entry))
                    separator = b",\n"
            file.write(b"\n]\n" if separator == b",\n" else b"[]\n")


def remove_coco_results(folder: str | Path) -> None:
    """Remove what `write_coco_results` wrote there."""
    for iou_type in PART_OF_IOU_TYPE:
        remove(Path(folder) / f"{iou_type}.json")


def coco_entries(
    image_id: int,
    prediction: Prediction,
    iou_types: Sequence[str],
    category_of_label: Sequence[int | None],
) -> Iterator[dict[str, Any]]:
    """One entry of a result file for each detection, with its part for each of iou_types.

    prediction: encoded, with continuous boxes; proposals, which are of no class, have the label 1.
    category_of_label: the category id of each label 0..K; detections without one are left out.
    """
    labels = [1] * len(prediction) if prediction.labels is None else prediction.labels.tolist()
    parts = [_parts_of(prediction, iou_type) for iou_type in iou_types]
    names = [PART_OF_IOU_TYPE[iou_type] for iou_type in iou_types]
    for label, score, *own in zip(labels, prediction.scores.tolist(), *parts, strict=True):
        category_id = category_of_label[label]
        if category_id is not None:
            entry = {"image_id": image_id, "category_id": category_id}
            yield {**entry, **dict(zip(names, own, strict=True)), "score": score}


def _parts_of(prediction: Prediction, iou_type: str) -> Sequence[Any]:
    """What stands in each detection's entry for one of the kinds."""
    if iou_type == "bbox":
        boxes = prediction.boxes_xyxy
        return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
    if iou_type == "segm":
        rles = prediction.rles or []
        return [{"size": each["size"], "counts": each["counts"].decode()} for each in rles]
    points = prediction.keypoints
    return [] if points is None else points.flatten(1).tolist()


def _read(path: Path, ground_truth: GroundTruth | None) -> Sequence[Entry]:
    if not path.is_file():
        raise FileNotFoundError(f"there are no predictions at {path}: it does not exist")
    data = path.read_bytes()
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(
            f"{path} is no complete JSON file ({len(data)} bytes): {error}. Was its writing cut "
            "off? (NaN and Infinity are no JSON, either.)"
        ) from error
    if ground_truth is not None and is_described(content):
        return in_ids_of(path, content, ground_truth)
    if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
        given = type(content).__name__
        if isinstance(content, list):
            other = next(type(each).__name__ for each in content if not isinstance(each, dict))
            given += f" with a {other} in it"
        hint = " Is it an annotation file?" if isinstance(content, dict) else ""
        raise ValueError(
            f"{path} holds a {given}, but COCO's result files are a list of objects with image_id, "
            f"category_id, score and bbox, segmentation or keypoints.{hint}"
        )
    return content


def _first(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:_LISTED])) + (", ..." if len(values) > _LISTED else "")


def _named(categories: Categories) -> str:
    pairs = [f"{id_} {name}" for id_, name in zip(categories.ids, categories.names, strict=True)]
    return ", ".join(pairs[:_LISTED]) + (", ..." if len(pairs) > _LISTED else "")

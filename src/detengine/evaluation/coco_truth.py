"""The ground truth as hotcoco takes it, image by image."""

import logging
from collections.abc import Sequence
from typing import Any

import torch

from detengine.evaluation.coco_metrics import METRICS
from detengine.structures.categories import Categories
from detengine.structures.ground_truth import GroundTruth

logger = logging.getLogger("detengine.inference")

_LISTED = 10


class CocoTruth:
    """Ground truth by image position, which is the rank of the image's id.

    categories: those of the data set that the model knows, by name, in the order of their ids.
    Raises ValueError if there is none, or if an annotation is of no category of the data set.
    """

    def __init__(self, ground_truth: GroundTruth, class_names: Sequence[str]) -> None:
        _raise_if_category_missing(ground_truth)
        self.categories = _shared(ground_truth.categories, class_names)
        self._truth = ground_truth
        # index: where an image stands in the ground truth; position: the rank of its id.
        self._index = torch.argsort(ground_truth.image_ids).tolist()
        self._image_ids = ground_truth.image_ids[self._index].tolist()
        self._position = {image_id: n for n, image_id in enumerate(self._image_ids)}
        position_of_id = {id_: n for n, id_ in enumerate(self.categories.ids)}
        self._category = [position_of_id.get(id_, -1) for id_ in ground_truth.category_ids.tolist()]
        self._ignored = (ground_truth.is_crowd | ground_truth.is_difficult).int()

    def __len__(self) -> int:
        return len(self._image_ids)

    def find(self, image_id: int) -> int | None:
        """The position of an image; None if the ground truth has it not."""
        return self._position.get(image_id)

    def name_of(self, image: int) -> str:
        return f"image {self._image_ids[image]} ({self._truth.file_name(self._index[image])})"

    def ids_of(self, images: Sequence[int]) -> list[int]:
        """The ids of the images at these positions."""
        return [self._image_ids[image] for image in images]

    def size_of(self, image: int) -> tuple[int, int] | None:
        """(height, width), where the data set says it."""
        height, width = self._truth.image_sizes[self._index[image]].tolist()
        return (height, width) if height and width else None

    def annotations(self, image: int, size: tuple[int, int]) -> list[dict[str, Any]]:
        """One image's annotations as COCO's dicts. size: (height, width) of its masks."""
        rows = self._truth.annotations_of(self._index[image])
        columns: dict[str, list[Any]] = {
            "id": list(range(rows.start + 1, rows.stop + 1)),
            "image_id": [image] * (rows.stop - rows.start),
            "category_id": self._category[rows],
            "bbox": self._truth.boxes_xywh[rows].tolist(),
            "area": self._truth.areas[rows].tolist(),
            "iscrowd": self._ignored[rows].tolist(),
        }
        if self._truth.masks is not None:
            strings = (self._truth.masks[row] for row in range(rows.start, rows.stop))
            columns["segmentation"] = [{"size": list(size), "counts": each} for each in strings]
        if self._truth.keypoints is not None and self._truth.num_keypoints is not None:
            columns["keypoints"] = self._truth.keypoints[rows].flatten(1).tolist()
            columns["num_keypoints"] = self._truth.num_keypoints[rows].tolist()
        annotations = zip(*columns.values(), strict=True)
        return [
            dict(zip(columns, annotation, strict=True))
            for annotation, category in zip(annotations, self._category[rows], strict=True)
            if category >= 0
        ]

    def raise_if_unfit_for(self, iou_type: str) -> None:
        if iou_type not in METRICS:
            raise ValueError(f"the iou type {iou_type!r} is none of {', '.join(METRICS)}")
        column = {"segm": self._truth.masks, "keypoints": self._truth.keypoints, "bbox": ()}
        if column[iou_type] is None and len(self._truth.annotation_ids):
            raise ValueError(
                f"{iou_type} was asked for, but the ground truth has no "
                f"{'masks' if iou_type == 'segm' else 'keypoints'}; ask for bbox only"
            )
        if iou_type == "segm" and self._truth.masks is not None:
            empty = self._truth.masks.offsets.diff().eq(0).nonzero()[:, 0]
            if len(empty):
                ids = self._truth.annotation_ids[empty[:_LISTED]].tolist()
                raise ValueError(
                    f"segm was asked for, but {len(empty)} annotations have no mask: "
                    f"{', '.join(map(str, ids))}{', ...' if len(empty) > _LISTED else ''} "
                    "(annotation ids). Ask for bbox only, or correct the annotations."
                )


def _raise_if_category_missing(ground_truth: GroundTruth) -> None:
    ids = ground_truth.categories.ids
    unknown = sorted(set(ground_truth.category_ids.tolist()) - set(ids))
    if unknown:
        raise ValueError(
            f"the ground truth has annotations of the category ids {unknown[:_LISTED]}, but its "
            f"categories have the ids {sorted(ids)[:_LISTED]}: correct the annotation file"
        )


def _shared(categories: Categories, class_names: Sequence[str]) -> Categories:
    """The data set's categories that the model knows, in the order of their ids."""
    pairs = sorted(zip(categories.ids, categories.names, strict=True))
    shared = [(id_, name) for id_, name in pairs if name in class_names]
    unknown = [name for _, name in pairs if name not in class_names]
    if unknown and not shared:
        raise ValueError(
            "the model and the data set have no class in common, so that nothing can be scored: "
            f"the model has {', '.join(class_names)}; the data set {', '.join(unknown)}"
        )
    if unknown:
        logger.warning(
            "%d of the data set's %d classes are not the model's, and are not scored: %s",
            len(unknown),
            len(pairs),
            ", ".join(unknown[:_LISTED]),
        )
    return Categories(tuple(name for _, name in shared), tuple(id_ for id_, _ in shared))

"""The ground truth as the scorers take it, image by image."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from detengine.structures.categories import Categories
from detengine.structures.ground_truth import GroundTruth

logger = logging.getLogger("detengine.inference")

_LISTED = 10


class Truth:
    """Ground truth by image position, which is the rank of the image's id.

    Positions stand for ids wherever a library would be handed one: ids may be negative, or too
    large for its columns, and the order is all that scores depend on.
    - columns: the ground truth itself.
    - categories: those of the data set that the model knows, by name, in the order of their ids.
    - category_of_annotation: int64[N], the position of each annotation's category there; -1 where
      the model knows it not.
    Raises ValueError if no category is left, or if an annotation is of no category of the data set.
    """

    def __init__(self, ground_truth: GroundTruth, class_names: Sequence[str]) -> None:
        _raise_if_category_missing(ground_truth)
        self.columns = ground_truth
        self.class_names = tuple(class_names)
        self.categories = _shared(ground_truth.categories, class_names)
        # index: where an image stands in the ground truth; position: the rank of its id.
        self._index = torch.argsort(ground_truth.image_ids).tolist()
        self._image_ids = ground_truth.image_ids[self._index].tolist()
        self._position = {image_id: n for n, image_id in enumerate(self._image_ids)}
        self.category_of_annotation = self._categories_of(ground_truth.category_ids)
        self.is_ignored = ground_truth.is_crowd | ground_truth.is_difficult

    def __len__(self) -> int:
        return len(self._image_ids)

    def find(self, image_id: int) -> int | None:
        """The position of an image; None if the ground truth has it not."""
        return self._position.get(image_id)

    def index_of(self, image: int) -> int:
        """Where the image at this position stands in the ground truth."""
        index: int = self._index[image]
        return index

    def name_of(self, image: int) -> str:
        return f"image {self._image_ids[image]} ({self.columns.file_name(self._index[image])})"

    def ids_of(self, images: Sequence[int]) -> list[int]:
        """The ids of the images at these positions."""
        return [self._image_ids[image] for image in images]

    def size_of(self, image: int) -> tuple[int, int] | None:
        """(height, width), where the data set says it."""
        height, width = self.columns.image_sizes[self._index[image]].tolist()
        return (height, width) if height and width else None

    def rows_of(self, image: int) -> slice:
        """Where the annotations of the image at this position stand in the columns."""
        return self.columns.annotations_of(self._index[image])

    def categories_of_labels(self) -> Tensor:
        """int64[1 + K], the position of each label's category; -1 for none, and the background."""
        positions = {category_id: k for k, category_id in enumerate(self.categories.ids)}
        ids = self.categories.ids_of_labels(self.class_names)
        return torch.tensor([-1, *(-1 if each is None else positions[each] for each in ids)])

    def raise_without(self, kind: str, task: str) -> None:
        """Raise ValueError if the ground truth has not the kind, "masks" or "keypoints"."""
        has_none = getattr(self.columns, kind) is None
        if has_none and len(self.columns.annotation_ids):
            raise ValueError(
                f"{task} was asked for, but the ground truth has no {kind}; ask for bbox only"
            )
        if kind == "masks" and self.columns.masks is not None:
            empty = self.columns.masks.offsets.diff().eq(0).nonzero()[:, 0]
            if len(empty):
                ids = self.columns.annotation_ids[empty[:_LISTED]].tolist()
                raise ValueError(
                    f"{task} was asked for, but {len(empty)} annotations have no mask: "
                    f"{', '.join(map(str, ids))}{', ...' if len(empty) > _LISTED else ''} "
                    "(annotation ids). Ask for bbox only, or correct the annotations."
                )

    def _categories_of(self, category_ids: Tensor) -> Tensor:
        position_of_id = {id_: n for n, id_ in enumerate(self.categories.ids)}
        return torch.tensor(
            [position_of_id.get(id_, -1) for id_ in category_ids.tolist()], dtype=torch.int64
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

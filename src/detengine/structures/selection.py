"""A part of a data set: some of its images, some of its classes."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from detengine.structures.categories import Categories
from detengine.structures.ground_truth import (
    VOID,
    FederatedLabels,
    GroundTruth,
    IgnoredRegions,
    PackedBytes,
    PackedIntegers,
)

_COLUMNS = (
    *("annotation_ids", "category_ids", "boxes_xywh", "areas", "is_crowd", "is_difficult"),
    *("keypoints", "num_keypoints"),
)
_LISTED = 10


def select(
    truth: GroundTruth,
    *,
    class_names: Sequence[str] | None = None,
    image_ids: Collection[int] | None = None,
) -> GroundTruth:
    """The ground truth of these images and classes, in its own order; None: all of them.

    Raises ValueError for a class or an image that it does not have, or if nothing is left.
    """
    if class_names is None and image_ids is None:
        return truth
    categories = _categories(truth.categories, class_names)
    images = _images(truth, image_ids)
    image_of = torch.repeat_interleave(torch.arange(len(truth)), truth.offsets.diff())
    is_chosen = torch.zeros(len(truth), dtype=torch.bool)
    is_chosen[images] = True
    kept = is_chosen[image_of] & torch.isin(truth.category_ids, torch.tensor(categories.ids))
    rows = kept.nonzero()[:, 0]
    counts = torch.bincount(image_of[rows], minlength=len(truth))[images]
    columns: dict[str, Any] = {
        name: None if getattr(truth, name) is None else getattr(truth, name)[rows]
        for name in _COLUMNS
    }
    return replace(
        truth,
        categories=categories,
        image_ids=truth.image_ids[images],
        image_sizes=truth.image_sizes[images],
        file_names=_bytes_at(truth.file_names, images),
        offsets=torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
        masks=None if truth.masks is None else _bytes_at(truth.masks, rows),
        federated=_federated(truth, images, categories),
        ignored_regions=_ignored_regions(truth, images, categories),
        **columns,
    )


def _categories(categories: Categories, class_names: Sequence[str] | None) -> Categories:
    if class_names is None:
        return categories
    unknown = [name for name in class_names if name not in categories.names]
    if unknown or not class_names:
        raise ValueError(
            f"there is nothing to choose by the classes {', '.join(map(repr, unknown)) or '[]'}: "
            f"the data set has {', '.join(map(repr, categories.names))}"
        )
    pairs = zip(categories.names, categories.ids, strict=True)
    names, ids = zip(*(pair for pair in pairs if pair[0] in class_names), strict=True)
    return Categories(names, ids)


def _images(truth: GroundTruth, image_ids: Collection[int] | None) -> Tensor:
    """int64, the indices of the images."""
    if image_ids is None:
        return torch.arange(len(truth))
    wanted = set(image_ids)
    known = truth.image_ids.tolist()
    unknown = sorted(wanted - set(known))
    if unknown or not wanted:
        raise ValueError(
            f"there is nothing to choose by the images "
            f"{', '.join(map(str, unknown[:_LISTED])) or '[]'}: the data set has {len(known)} "
            f"images, with the ids {', '.join(map(str, known[:_LISTED]))}"
            f"{', ...' if len(known) > _LISTED else ''}"
        )
    return torch.tensor([n for n, image_id in enumerate(known) if image_id in wanted])


def _bytes_at(strings: PackedBytes, rows: Tensor) -> PackedBytes:
    return PackedBytes.from_list([strings[row] for row in rows.tolist()])


def _ignored_regions(
    truth: GroundTruth, images: Tensor, categories: Categories
) -> IgnoredRegions | None:
    if truth.ignored_regions is None:
        return None
    kept = {*categories.ids, VOID}
    return IgnoredRegions.from_lists(
        [
            [region for region in truth.ignored_regions.of_image(n) if region[0] in kept]
            for n in images.tolist()
        ]
    )


def _federated(
    truth: GroundTruth, images: Tensor, categories: Categories
) -> FederatedLabels | None:
    if truth.federated is None:
        return None
    letter = dict(zip(truth.categories.names, truth.federated.frequencies, strict=True))

    def chosen(lists: PackedIntegers) -> PackedIntegers:
        return PackedIntegers.from_lists(
            [[k for k in lists[n] if k in categories.ids] for n in images.tolist()]
        )

    return FederatedLabels(
        chosen(truth.federated.negative),
        chosen(truth.federated.not_exhaustive),
        tuple(letter[name] for name in categories.names),
    )

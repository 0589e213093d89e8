"""What data sets are like, in the numbers that a recipe depends on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detengine.data.annotations import image_of_annotation
from detengine.data.keypoints import mirror_of_keypoints
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.rle import decode_counts

_RECTANGLE = 0.1
"""A mask whose area is this close to its box's, as a fraction, says no more than the box."""
_FREQUENT = 0.01
"""A class with fewer of the objects is too rare to have anchors by."""
_SAMPLED = 500
"""Masks that are looked at for that."""


@dataclass(frozen=True)
class Survey:
    """Counts are of training images and of their objects that are trained on; sides in pixels of
    the files.

    class_counts: objects by class. without_objects: images. most_objects: of one image.
    short_side, long_side: the median image's. aspect: long / short side, of nine in ten images at
    most. small, lower, median, large: the sides (root of width * height) of 10, 25, 50 and 95 of a
    hundred objects, in images whose short side is short_side; small is smaller where a class is
    whose objects all are. ratios: height / width of 5 and 95
    of a hundred. masks: objects that have one; outlines: the fraction of those that is no
    rectangle. keypoints: of one object, 0 for none; has_sides: whether their mirrors are known.
    """

    images: int
    scored_images: int
    objects: int
    class_counts: dict[str, int]
    without_objects: int
    most_objects: int
    short_side: int
    long_side: int
    aspect: float
    small: float
    lower: float
    median: float
    large: float
    ratios: tuple[float, float]
    masks: int
    outlines: float
    keypoints: int
    has_sides: bool


def survey(trained_on: Sequence[GroundTruth], scored: Sequence[GroundTruth]) -> Survey:
    """Raises ValueError if there is nothing to train on: no objects."""
    parts = [_objects_of(truth) for truth in trained_on]
    objects = sum(len(rows) for rows in parts)
    if not objects:
        raise ValueError(
            f"there is nothing to learn from: none of the {sum(map(len, trained_on))} training "
            "images has an object (crowds, difficult ones and boxes without area do not count)"
        )
    sizes = torch.cat([truth.image_sizes for truth in trained_on]).double()
    short, long = sizes.amin(dim=1), sizes.amax(dim=1)
    short_side = float(short.median())
    sides, ratios = [], []
    for truth, rows in zip(trained_on, parts, strict=True):
        extent = truth.boxes_xywh[rows, 2:]
        of_image = truth.image_sizes[image_of_annotation(truth)[rows]].amin(dim=1)
        sides.append(extent.prod(dim=1).sqrt() * short_side / of_image)
        ratios.append(extent[:, 1] / extent[:, 0])
    per_image = torch.cat(
        [
            torch.bincount(image_of_annotation(truth)[rows], minlength=len(truth))
            for truth, rows in zip(trained_on, parts, strict=True)
        ]
    )
    small, lower, median, large = _quantiles(torch.cat(sides), (0.1, 0.25, 0.5, 0.95))
    small = min(small, _smallest_class(trained_on, parts, sides))
    flat, upright = _quantiles(torch.cat(ratios), (0.05, 0.95))
    masks, outlines = _outlines_in(trained_on, parts)
    keypoints = [_keypoints_of(truth) for truth in trained_on]
    return Survey(
        images=sum(map(len, trained_on)),
        scored_images=sum(map(len, scored)),
        objects=objects,
        class_counts=_class_counts(trained_on, parts),
        without_objects=int((per_image == 0).sum()),
        most_objects=int(per_image.max()),
        short_side=round(short_side),
        long_side=round(float(long.median())),
        aspect=_quantiles(long / short, (0.9,))[0],
        small=small,
        lower=lower,
        median=median,
        large=large,
        ratios=(flat, upright),
        masks=masks,
        outlines=outlines,
        keypoints=keypoints[0] if len(set(keypoints)) == 1 else 0,
        has_sides=all(mirror_of_keypoints(truth) is not None for truth in trained_on),
    )


def _smallest_class(
    truths: Sequence[GroundTruth], parts: Sequence[Tensor], sides: Sequence[Tensor]
) -> float:
    """The lower quartile of the sides of the class whose objects are the smallest."""
    of_class: dict[str, list[Tensor]] = {}
    for truth, rows, own in zip(truths, parts, sides, strict=True):
        ids = truth.category_ids[rows]
        for name, category_id in zip(truth.categories.names, truth.categories.ids, strict=True):
            of_class.setdefault(name, []).append(own[ids == category_id])
    joined = [torch.cat(each) for each in of_class.values()]
    total = sum(map(len, joined))
    return min(_quantiles(each, (0.25,))[0] for each in joined if len(each) >= _FREQUENT * total)


def _objects_of(truth: GroundTruth) -> Tensor:
    """int64[n], the annotations that a model is trained on."""
    has_area = (truth.boxes_xywh[:, 2:] > 0).all(dim=1)
    return (has_area & truth.counting).nonzero()[:, 0]


def _quantiles(values: Tensor, fractions: tuple[float, ...]) -> list[float]:
    # torch.quantile takes 16 million values at most
    ordered = values.sort().values
    return [float(ordered[round(each * (len(ordered) - 1))]) for each in fractions]


def _class_counts(truths: Sequence[GroundTruth], parts: Sequence[Tensor]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for truth, rows in zip(truths, parts, strict=True):
        ids = truth.category_ids[rows]
        for name, category_id in zip(truth.categories.names, truth.categories.ids, strict=True):
            counts[name] = counts.get(name, 0) + int((ids == category_id).sum())
    return counts


def _outlines_in(truths: Sequence[GroundTruth], parts: Sequence[Tensor]) -> tuple[int, float]:
    """How many objects have a mask, and which fraction of those is no rectangle, of a sample."""
    found = [
        (truth, row)
        for truth, rows in zip(truths, parts, strict=True)
        if truth.masks is not None
        for row in rows[truth.masks.offsets.diff()[rows] > 0].tolist()
    ]
    sample = found[:: max(1, len(found) // _SAMPLED)]
    outlines = sum(not _is_rectangle(truth, row) for truth, row in sample)
    return len(found), outlines / len(sample) if sample else 0.0


def _is_rectangle(truth: GroundTruth, row: int) -> bool:
    assert truth.masks is not None
    area = int(decode_counts(truth.masks[row])[1::2].sum())
    return abs(area / float(truth.boxes_xywh[row, 2:].prod()) - 1) < _RECTANGLE


def _keypoints_of(truth: GroundTruth) -> int:
    """J of a data set of one class in which keypoints are marked; else 0."""
    if truth.keypoints is None or truth.num_keypoints is None or len(truth.categories) != 1:
        return 0
    return truth.keypoints.shape[1] if bool((truth.num_keypoints > 0).any()) else 0

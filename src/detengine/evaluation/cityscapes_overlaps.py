"""How many pixels an image's detections share with its objects, groups and void."""

from collections.abc import Sequence
from typing import Any, cast

import hotcoco.mask
import numpy as np
from numpy.typing import NDArray

from detengine.evaluation.cityscapes_matching import Overlaps
from detengine.evaluation.detections import Detections, Floats, Positions
from detengine.evaluation.truth import Truth
from detengine.structures.ground_truth import VOID
from detengine.structures.rle import RLE, decode_counts


def mask_overlaps(truth: Truth, detections: Detections) -> Overlaps:
    """Of masks, with the groups and the void of the data set's ignored regions."""
    size = list(detections.size)
    rows, categories, is_group = _annotations_of(truth, detections.image)
    masks = truth.columns.masks
    objects = [] if masks is None else [RLE(size=size, counts=masks[row]) for row in rows.tolist()]
    groups, void = _ignored_regions_of(truth, detections)
    objects += [rle for _, rle in groups]
    categories = np.append(categories, [category for category, _ in groups]).astype(np.int64)
    is_group = np.append(is_group, np.ones(len(groups), np.bool_))

    found = list(detections.rles or ())
    areas = mask_areas(found)
    intersections = np.zeros((len(found), len(objects)))
    for category in np.unique(detections.categories):
        own = np.flatnonzero(detections.categories == category)
        theirs = np.flatnonzero(categories == category)
        intersections[np.ix_(own, theirs)] = _mask_intersections(
            [found[row] for row in own], [objects[row] for row in theirs], areas[own]
        )
    in_void = _mask_intersections(found, void, areas).sum(axis=1)
    return Overlaps(intersections, areas, mask_areas(objects), is_group, in_void)


def box_overlaps(truth: Truth, detections: Detections) -> Overlaps:
    """Of boxes; ignored regions have none."""
    rows, categories, is_group = _annotations_of(truth, detections.image)
    corner, extent = np.split(truth.columns.boxes_xywh.numpy()[rows], 2, axis=1)
    boxes = detections.boxes_xyxy[:, None]
    low = np.maximum(boxes[:, :, :2], corner)
    high = np.minimum(boxes[:, :, 2:], corner + extent)
    intersections = (high - low).clip(0).prod(axis=2)
    intersections[detections.categories[:, None] != categories] = 0
    areas = (detections.boxes_xyxy[:, 2:] - detections.boxes_xyxy[:, :2]).prod(axis=1)
    return Overlaps(
        intersections, areas, extent.prod(axis=1), is_group, void=np.zeros(len(detections))
    )


def areas_of_annotations(truth: Truth, rows: Positions, *, by_mask: bool) -> Floats:
    """float64[N], in pixels. by_mask: of the masks, or else of the boxes."""
    masks = truth.columns.masks
    if by_mask and masks is not None:
        pixels = [int(decode_counts(masks[row])[1::2].sum()) for row in rows.tolist()]
        return np.array(pixels, np.float64)
    areas: Floats = truth.columns.boxes_xywh.numpy()[rows, 2:].prod(axis=1)
    return areas


def mask_areas(rles: Sequence[RLE]) -> Floats:
    """float64[N], in pixels."""
    return np.asarray(hotcoco.mask.area(_dicts(rles)), np.float64).reshape(len(rles))


def _mask_intersections(ones: Sequence[RLE], others: Sequence[RLE], areas: Floats) -> Floats:
    """float64[N, M], whole numbers. areas: those of the N masks, none of them empty."""
    if not ones or not others:
        return np.zeros((len(ones), len(others)))
    # with a crowd the overlap is the share of the first mask, of which rounding gives the pixels
    shares = hotcoco.mask.iou(_dicts(ones), _dicts(others), [1] * len(others))
    return np.rint(np.asarray(shares) * areas[:, None])


def _dicts(rles: Sequence[RLE]) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", list(rles))


def _annotations_of(truth: Truth, image: int) -> tuple[Positions, Positions, NDArray[np.bool_]]:
    """Of the image's annotations the rows in the columns, the categories, and which are groups."""
    rows = truth.rows_of(image)
    known = np.flatnonzero(truth.category_of_annotation[rows].numpy() >= 0) + rows.start
    return known, truth.category_of_annotation.numpy()[known], truth.is_ignored.numpy()[known]


def _ignored_regions_of(
    truth: Truth, detections: Detections
) -> tuple[list[tuple[int, RLE]], list[RLE]]:
    """The image's groups with the positions of their categories, and its void."""
    regions = truth.columns.ignored_regions
    if regions is None:
        return [], []
    size = list(detections.size)
    position = {category_id: n for n, category_id in enumerate(truth.categories.ids)}
    groups, void = [], []
    for category_id, mask in regions.of_image(truth.index_of(detections.image)):
        rle = RLE(size=size, counts=mask)
        if category_id == VOID:
            void.append(rle)
        elif category_id in position:
            groups.append((position[category_id], rle))
    return groups, void

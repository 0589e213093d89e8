"""What the readers of annotation files share: objects as they are found, checked, then packed.

A reader collects one `FoundObject` for each annotation and hands them all to `pack_annotations`;
of many annotations, `ObjectColumns` to `pack_columns`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from detengine.data.lists import is_file
from detengine.data.object_columns import (
    Floats,
    FoundObject,
    Integers,
    ObjectColumns,
    columns_of,
    joined,
)
from detengine.structures.categories import Categories
from detengine.structures.ground_truth import GroundTruth, PackedBytes
from detengine.structures.rle import decode_counts

FEW = 10
"""How many culprits a message names."""
_LONGEST_OF_NOTHING = 16
"""Bytes of a mask without a pixel: a run of 32 bits has 7, and hardly anybody writes empty runs."""


@dataclass(frozen=True)
class FoundImages:
    """The images of a data set as its file lists them. sizes: (height, width), upright."""

    ids: Sequence[int]
    file_names: Sequence[str]
    sizes: Sequence[tuple[int, int]]


def pack_annotations(
    source: Path,
    categories: Categories,
    images: FoundImages,
    objects: Sequence[FoundObject],
    keypoint_names: tuple[str, ...] = (),
) -> GroundTruth:
    """The columns of a whole data set, sorted by image and within an image as in the file.

    Raises ValueError, naming `source` and the annotation, if an annotation id stands twice or a box
    is impossible: not finite, of negative size, or entirely outside of its image.
    """
    return pack_columns(source, categories, images, [columns_of(objects)], keypoint_names)


def pack_columns(
    source: Path,
    categories: Categories,
    images: FoundImages,
    parts: list[ObjectColumns],
    keypoint_names: tuple[str, ...] = (),
    *,
    with_impossible_boxes: bool = False,
) -> GroundTruth:
    """As pack_annotations, of all parts in their order. Empties the list, to have their memory.

    An annotation without keypoints among those with J of them has J times zeros.
    with_impossible_boxes: keep them, for somebody who asks `impossible_boxes` himself.
    """
    annotation_ids = joined(parts, "annotation_ids")
    raise_if_twice(source, "annotation id", annotation_ids.tolist())
    image_of = joined(parts, "images")
    order = np.argsort(image_of, kind="stable")

    def column(name: str) -> torch.Tensor:
        return torch.from_numpy(joined(parts, name)[order])

    keypoints = _keypoints_of(parts, len(keypoint_names))[order]
    num_keypoints = column("num_keypoints")
    truth = GroundTruth(
        categories=categories,
        image_ids=_column(images.ids, torch.int64),
        image_sizes=_column(images.sizes, torch.int64).view(-1, 2),
        file_names=PackedBytes.from_list([_encoded(source, name) for name in images.file_names]),
        offsets=torch.from_numpy(_offsets(image_of, len(images.ids))),
        annotation_ids=torch.from_numpy(annotation_ids[order]),
        category_ids=column("category_ids"),
        boxes_xywh=column("boxes_xywh"),
        areas=column("areas"),
        is_crowd=column("is_crowd"),
        is_difficult=column("is_difficult"),
        masks=_masks_of(parts, order),
        keypoints=torch.from_numpy(keypoints) if keypoints.size else None,
        num_keypoints=num_keypoints if keypoints.size else None,
        keypoint_names=keypoint_names,
    )
    if not with_impossible_boxes:
        _raise_if_boxes_impossible(source, truth)
    return truth


def _encoded(source: Path, file_name: str) -> bytes:
    try:
        return file_name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{source}: the name of the file {file_name!r} is not UTF-8. Rename the file."
        ) from error


def _offsets(image_of: Integers, images: int) -> Integers:
    """int64[I + 1]"""
    per_image = np.bincount(image_of, minlength=images)
    return np.concatenate([[0], per_image.cumsum()]).astype(np.int64)


def _keypoints_of(parts: Sequence[ObjectColumns], names: int) -> Floats:
    """float64[N, J, 3], J being the number of names, or else of the first object's that has any."""
    lengths = joined(parts, "keypoint_lengths")
    given = lengths > 0
    numbers = 3 * names or (int(lengths[given][0]) if given.any() else 0)
    keypoints = np.zeros((len(lengths), numbers))
    if given.any():
        keypoints[given] = joined(parts, "keypoints").reshape(-1, numbers)
    return keypoints.reshape(len(lengths), -1, 3) if keypoints.size else keypoints


def _masks_of(parts: list[ObjectColumns], order: Integers) -> PackedBytes | None:
    """The masks of all parts in this order; None if there is none. Empties the list."""
    masks: list[bytes] = []
    while parts:
        masks += parts.pop(0).masks
    return (
        PackedBytes.from_list(list(map(masks.__getitem__, order.tolist()))) if any(masks) else None
    )


def named_categories(source: object, names: Sequence[str], ids: Sequence[int]) -> Categories:
    """The classes. Raises ValueError, naming the source, for names that are none or doubled."""
    try:
        return Categories(tuple(names), tuple(ids))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def raise_if_twice(source: Path, kind: str, values: Sequence[int] | Sequence[str]) -> None:
    """Raise ValueError if a value stands twice among them."""
    if len(set(values)) == len(values):
        return
    unique, counts = np.unique(np.asarray(values), return_counts=True)
    doubled = unique[counts > 1].tolist()
    raise ValueError(
        f"{source}: {kind} {doubled[0]!r} stands {counts[counts > 1][0]} times; each must be "
        f"unique. {len(doubled)} are doubled: {doubled[:FEW]}. Was the file merged from several? "
        "Number them anew."
    )


def raise_if_folder_is_wrong(source: Path, image_folder: Path, file_names: Sequence[str]) -> None:
    """Raise FileNotFoundError if the first image is not there: most likely none is."""
    if file_names and not is_file(image_folder / file_names[0]):
        reason = "it has no such file" if image_folder.is_dir() else "there is no such folder"
        raise FileNotFoundError(
            f"{source} lists {file_names[0]!r} as its first image, expected in {image_folder}, but "
            f"{reason}. Is the data set's image folder right?"
        )


def image_of_annotation(truth: GroundTruth) -> torch.Tensor:
    """int64[N]: the index of each annotation's image."""
    return torch.repeat_interleave(torch.arange(len(truth)), truth.offsets.diff())


def sizes_wh(truth: GroundTruth) -> torch.Tensor:
    """int64[N, 2]: (width, height) of each annotation's image."""
    return truth.image_sizes[image_of_annotation(truth)].flip(1)


def masks_without_a_pixel(truth: GroundTruth) -> torch.Tensor:
    """bool[N]: those that have a mask in which everything is outside. Looks at short ones only."""
    found = torch.zeros(len(truth.annotation_ids), dtype=torch.bool)
    if truth.masks is None:
        return found
    lengths = truth.masks.offsets.diff()
    is_nothing: dict[bytes, bool] = {}  # there are many masks and few such texts
    for position in ((lengths > 0) & (lengths <= _LONGEST_OF_NOTHING)).nonzero()[:, 0].tolist():
        text = truth.masks[position]
        if text not in is_nothing:
            is_nothing[text] = not decode_counts(text)[1::2].any()
        found[position] = is_nothing[text]
    return found


@dataclass(frozen=True)
class ImpossibleBoxes:
    """Annotations whose boxes cannot be. culprits: bool[N]; complaint: follows on "the box"."""

    culprits: torch.Tensor
    complaint: str
    cure: str


def impossible_boxes(truth: GroundTruth) -> list[ImpossibleBoxes]:
    """The three kinds of box that no reader lets pass, those included that have no culprit."""
    corner, extent = truth.boxes_xywh[:, :2], truth.boxes_xywh[:, 2:]
    far_corner, size = corner + extent, sizes_wh(truth)
    numbers = [truth.boxes_xywh, far_corner, extent[:, :1] * extent[:, 1:], truth.areas[:, None]]
    finite = torch.cat(numbers, dim=1).isfinite().all(dim=1)
    negative = (extent < 0).any(dim=1)
    # a box with an area needs some of it inside; one without may lie on the edge
    beyond = (corner > size) | (far_corner < 0)
    beyond |= (extent > 0) & ((corner >= size) | (far_corner <= 0))
    return [
        ImpossibleBoxes(~finite, "is not finite", "Correct the annotation or take it out."),
        ImpossibleBoxes(
            negative, "has a negative size", "Is it [x, y, width, height], and not two corners?"
        ),
        ImpossibleBoxes(
            beyond.any(dim=1),
            "lies entirely outside of its image",
            "Do the boxes belong to resized images?",
        ),
    ]


def box_in_words(truth: GroundTruth, position: int) -> str:
    """A box, its image's file and that image's size, for messages."""
    image = int(image_of_annotation(truth)[position])
    height, width = truth.image_sizes[image].tolist()
    return (
        f"[x, y, width, height] = {truth.boxes_xywh[position].tolist()} in "
        f"{truth.file_name(image)} of {width} x {height} pixels (width x height)"
    )


def _raise_if_boxes_impossible(source: Path, truth: GroundTruth) -> None:
    for kind in impossible_boxes(truth):
        if kind.culprits.any():
            first = int(kind.culprits.nonzero()[0, 0])
            raise ValueError(
                f"{source}: the box of annotation {int(truth.annotation_ids[first])} "
                f"{kind.complaint}: {box_in_words(truth, first)}. "
                f"{int(kind.culprits.sum())} annotations are like this. {kind.cure}"
            )


def _column(values: Sequence[object], dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)

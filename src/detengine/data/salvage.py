"""What can be read of a data set that its reader refuses, and everything that is wrong with it.

A reader ends at the first mistake, because nothing may be dropped in silence. Here nothing is:
each culprit is a `Problem`, and the others are packed, so that they can be looked at, too.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch

from detengine.data.annotations import (
    FoundImages,
    box_in_words,
    image_of_annotation,
    impossible_boxes,
    pack_columns,
)
from detengine.data.object_columns import FoundObject, columns_of
from detengine.structures.categories import Categories
from detengine.structures.finding import Problem
from detengine.structures.ground_truth import GroundTruth

_MOST_NUMBERED = 1 << 62
"""An id up to which there are others above it, in 64 bits."""


def pack_what_is_possible(
    source: Path,
    categories: Categories,
    images: FoundImages,
    objects: Sequence[FoundObject],
    problems: list[Problem],
    *,
    keypoint_names: tuple[str, ...] = (),
) -> GroundTruth:
    """As `pack_annotations`, without what that refuses; adds this to the problems.

    Of a doubled annotation id the second and further ones get new numbers.
    """
    unique = _with_unique_ids(source, objects, problems)
    truth = pack_columns(
        source, categories, images, [columns_of(unique)], keypoint_names, with_impossible_boxes=True
    )
    culprits = torch.zeros(len(unique), dtype=torch.bool)
    image_of = image_of_annotation(truth)
    for kind in impossible_boxes(truth):
        for position in (kind.culprits & ~culprits).nonzero()[:, 0].tolist():
            annotation_id = int(truth.annotation_ids[position])
            place = f"annotation {annotation_id} ({truth.file_name(int(image_of[position]))})"
            message = (
                f"{source}: the box of annotation {annotation_id} {kind.complaint}: "
                f"{box_in_words(truth, position)}. {kind.cure}"
            )
            problems.append(Problem(place, message))
        culprits |= kind.culprits
    if not culprits.any():
        return truth
    dropped = frozenset(truth.annotation_ids[culprits].tolist())
    kept = [each for each in unique if each.annotation_id not in dropped]
    return pack_columns(source, categories, images, [columns_of(kept)], keypoint_names)


def each_once(source: Path, names: Sequence[str], problems: list[Problem]) -> list[str]:
    """The images' names; those that stand twice are added to the problems."""
    seen: dict[str, None] = {}
    for name in names:
        if name in seen:
            message = f"{source}: image {name!r} stands twice; each must be unique. Take one out."
            problems.append(Problem(name, message))
        seen[name] = None
    return list(seen)


def _with_unique_ids(
    source: Path, objects: Sequence[FoundObject], problems: list[Problem]
) -> list[FoundObject]:
    taken = {each.annotation_id for each in objects}
    highest = max(taken, default=0)
    numbers = count(highest + 1 if highest < _MOST_NUMBERED else 1)
    free = (number for number in numbers if number not in taken)
    seen: set[int] = set()
    unique = []
    for each in objects:
        if each.annotation_id in seen:
            message = (
                f"{source}: annotation id {each.annotation_id} stands twice; each must be unique. "
                "Was the file merged from several? Number them anew."
            )
            problems.append(Problem(f"annotation {each.annotation_id}", message))
            each = replace(each, annotation_id=next(free))
        seen.add(each.annotation_id)
        unique.append(each)
    return unique

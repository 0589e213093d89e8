"""What can be read of a data set that its reader refuses, and everything that is wrong with it.

A reader ends at the first mistake, because nothing may be dropped in silence. Here nothing is:
each culprit is a `Problem`, and the others are packed, so that they can be looked at, too.
"""

from collections.abc import Sequence
from dataclasses import replace
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


def _with_unique_ids(
    source: Path, objects: Sequence[FoundObject], problems: list[Problem]
) -> list[FoundObject]:
    free = max((each.annotation_id for each in objects), default=0) + 1
    seen: set[int] = set()
    unique = []
    for each in objects:
        if each.annotation_id in seen:
            message = (
                f"{source}: annotation id {each.annotation_id} stands twice; each must be unique. "
                "Was the file merged from several? Number them anew."
            )
            problems.append(Problem(f"annotation {each.annotation_id}", message))
            each = replace(each, annotation_id=free)
            free += 1
        seen.add(each.annotation_id)
        unique.append(each)
    return unique

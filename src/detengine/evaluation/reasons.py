"""Why a score is 0, or not there at all: what a user would otherwise have to find out."""

from typing import NamedTuple


class Counts(NamedTuple):
    """What was scored.

    objects: annotations that can be found; ignored_objects: crowds and difficult ones. dropped:
    detections of classes that the data set does not have. furthest: the largest coordinate of a
    box, in pixels, rounded up; None where boxes are not scored.
    """

    images: int
    objects: int
    ignored_objects: int
    detections: int
    dropped: int
    furthest: int | None


def reason_for(score: float, counts: Counts) -> str | None:
    """Why a main metric is -1 (nothing to score) or 0; None for any other score."""
    if score == -1:
        return _nothing_to_find(counts)
    return _nothing_found(counts) if score == 0 else None


def _nothing_to_find(counts: Counts) -> str:
    if counts.objects:
        return f"none of the {counts.objects} objects counts for this metric"
    if counts.ignored_objects:
        return (
            f"the {counts.images} images have no object to find: all {counts.ignored_objects} "
            "annotations are crowds or difficult"
        )
    return f"the {counts.images} images have no annotation of the classes that are scored"


def _nothing_found(counts: Counts) -> str:
    if not counts.detections and not counts.dropped:
        return f"there is not a single detection in {counts.images} images"
    if not counts.detections:
        return f"all {counts.dropped} detections are of classes that the ground truth does not have"
    if counts.furthest is not None and counts.furthest <= 1:
        return (
            f"all {counts.detections} boxes lie within one pixel: are they fractions of the image "
            "in the place of pixels?"
        )
    return (
        f"none of {counts.detections} detections overlaps an object of its class enough to count "
        f"(objects: {counts.objects}). That is usual early in a training; else, are the classes in "
        "another order, or the boxes in the pixels of another image size?"
    )

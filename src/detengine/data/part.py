"""A part of a data set's images, as a function of their names: a split that needs no list."""

import hashlib
import math
import re
from collections.abc import Sequence

from detengine.structures.ground_truth import GroundTruth
from detengine.structures.selection import select

_VARIANT = re.compile(r"\.rf\.[0-9A-Za-z]{16,}(?=\.\w+$)")
"""What Roboflow puts into the names of the varied copies of a picture."""
_EXACT = 9
"""Decimal places to which a fraction of a number of images is trusted: 0.07 * 100 is 7."""


def select_part(truth: GroundTruth, part: tuple[float, float], name: str) -> GroundTruth:
    """The images from one fraction to another, in an order drawn by their names.

    name: of the data set, for messages. Parts that only touch have no image in common, and all of
    [0, 1] is everything. Raises ValueError if there are too few images for any to be in it.
    """
    file_names = [truth.file_name(index) for index in range(len(truth))]
    chosen = images_of_part(file_names, part)
    if not chosen:
        raise ValueError(
            f"data set {name!r} is the part {list(part)} of {len(file_names)} images, and none is "
            f"in it. Make DATASETS.DEFINE.{name}.PART larger, or leave it out."
        )
    return select(truth, image_ids=truth.image_ids[chosen].tolist())


def images_of_part(file_names: Sequence[str], part: tuple[float, float]) -> list[int]:
    """Which of the images are in it, ascending.

    An image's place is that of its name's sha256 among all, so that a new one moves the border by
    at most one. A picture's varied copies (Roboflow's .rf. in the name) are in one part. A border
    is rounded up: 0.2 of three pictures is one.
    """
    pictures = [_VARIANT.sub("", name) for name in file_names]
    digests = {each: hashlib.sha256(each.encode()).digest() for each in pictures}
    drawn = sorted(digests, key=digests.__getitem__)
    start, stop = (math.ceil(round(border * len(drawn), _EXACT)) for border in part)
    inside = set(drawn[start:stop])
    return [index for index, picture in enumerate(pictures) if picture in inside]

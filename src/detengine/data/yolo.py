"""YOLO's folders: beside the images, or in a folder like theirs, a .txt file for each.

Format: https://docs.ultralytics.com/datasets. A line is an object: the number of its class, from 0,
then its box as centre and size (cx cy w h), or its outline as x1 y1 x2 y2 x3 y3 ...; all in
fractions of the picture's width and height. A file without lines, and one that is not there, say
that nothing is in the picture.
"""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from detengine.data.annotations import (
    FEW,
    FoundImages,
    named_categories,
    pack_annotations,
    raise_if_twice,
)
from detengine.data.decimals import read_number
from detengine.data.folder_listing import IMAGE_SUFFIXES, NOT_LABELS, walk_once
from detengine.data.images import read_size
from detengine.data.lists import is_file, read_list
from detengine.data.object_columns import FoundObject
from detengine.data.segmentation import encode_polygons
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.rle import decode_counts
from detengine.untrusted.excerpt import excerpt

logger = logging.getLogger(__name__)

_BEYOND = 0.01
"""How far a number may lie outside of 0 to 1: programs round, and let outlines cross the edge."""
_BOX, _SHORTEST_OUTLINE = 4, 6
"""Numbers behind the class."""


def load_yolo(
    images: Path, labels: Path | None, classes: Sequence[str], name: str
) -> tuple[GroundTruth, Path]:
    """Read one split, and say from where its file names start. name: for messages.

    images: a folder, read with all folders in it, or a .txt file with an image's path on each line,
    relative to the file. labels: the folder that is laid out like it; None: of an image
    .../images/a/b.jpg it is .../labels/a/b.txt, or b.txt beside it where no folder is called
    images. classes: of the numbers 0, 1, ... Image ids and annotation ids are 1, 2, ... in the
    order of the file names, or of the list; category ids are the numbers.
    Raises FileNotFoundError for what is not there, and ValueError, naming file and line, for a
    line that is no object.
    """
    folder = images.parent if images.suffix == ".txt" else images
    file_names = _listed_images(images, name) if images.suffix == ".txt" else images_in(folder)
    if not file_names:
        raise FileNotFoundError(
            f"data set {name!r} has no images: {images} "
            f"{'holds none' if images.exists() else 'does not exist'}. "
            "Correct its IMAGES, or DATASETS.ROOT."
        )
    raise_if_twice(images, "image", file_names)
    places = [labels_of(folder, file_name, labels) for file_name in file_names]
    raise_if_no_labels(images, labels, places, name)
    _tell_what_is_missing(labels, places, name)
    sizes = [read_size(folder / file_name) for file_name in file_names]
    read = [
        (index, each)
        for index, (place, size) in enumerate(zip(places, sizes, strict=True))
        for each in _read_labels(place, size, classes)
    ]
    objects = [
        FoundObject(index, number, each.number, each.box_xywh, each.area, mask=each.mask)
        for number, (index, each) in enumerate(read, start=1)
    ]
    found = FoundImages(range(1, len(file_names) + 1), file_names, sizes)
    categories = named_categories(f"data set {name!r}", classes, range(len(classes)))
    return pack_annotations(images, categories, found, objects), folder


def images_in(folder: Path) -> list[str]:
    """All images in a folder and the folders in it, relative to it, by name."""
    found = [
        (Path(place) / name).relative_to(folder).as_posix()
        for place, names in walk_once(folder, with_hidden=True)
        for name in names
        if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
    ]
    return sorted(found)


def _listed_images(path: Path, name: str) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(
            f"data set {name!r} has no list of images: {path} does not exist. "
            "Correct its IMAGES, or DATASETS.ROOT."
        )
    listed = read_list(path)
    for number, line in listed:
        if not is_file(path.parent / line):
            raise FileNotFoundError(
                f"{path}:{number} names {line!r}, but there is no file {path.parent / line}. Paths "
                "start at the folder of the list."
            )
    return [Path(line).as_posix() for _, line in listed]


def labels_of(folder: Path, file_name: str, labels: Path | None) -> Path:
    """The file with an image's objects, which may not be there."""
    if labels is not None:
        return (labels / file_name).with_suffix(".txt")
    parts = list((folder / file_name).parts)
    places = [index for index, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def raise_if_no_labels(
    images: Path, labels: Path | None, places: Sequence[Path], name: str
) -> None:
    """Raise FileNotFoundError if no image has a label file. places: where they are looked for."""
    if not any(place.is_file() for place in places):
        where = f"in {labels}" if labels is not None else f"such as {places[0]}"
        raise FileNotFoundError(
            f"none of the {len(places)} images of data set {name!r} ({images}) has a label file "
            f"{where}: at least one is expected, named like its image. Correct its LABELS."
        )


def _tell_what_is_missing(labels: Path | None, places: Sequence[Path], name: str) -> None:
    missing = [place for place in places if not place.is_file()]
    if missing:
        logger.info(
            "%s: %d of %d images have no label file, and count as images without objects: %s%s",
            name,
            len(missing),
            len(places),
            ", ".join(place.name for place in missing[:FEW]),
            ", ..." if len(missing) > FEW else "",
        )
    strange = sorted(_labels_in(labels) - set(places)) if labels is not None else []
    if strange:
        logger.warning(
            "%s: %d label files have no image of their name, and are left out: %s%s",
            name,
            len(strange),
            ", ".join(place.name for place in strange[:FEW]),
            ", ..." if len(strange) > FEW else "",
        )


def _labels_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*.txt") if path.name not in NOT_LABELS}


class YoloObject(NamedTuple):
    """number: of its class. mask: a compressed RLE, empty for a box."""

    number: int
    box_xywh: tuple[float, float, float, float]
    area: float
    mask: bytes = b""


def _read_labels(path: Path, size: tuple[int, int], classes: Sequence[str]) -> Iterator[YoloObject]:
    for number, line in enumerate(label_lines(path), start=1):
        if line.strip():
            try:
                yield read_line(line.split(), size, classes)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from error


def label_lines(path: Path) -> list[str]:
    """The lines of an image's labels; none where no such file is there.

    Raises ValueError, naming the file, for what is no text, or no file but there all the same.
    """
    if not path.is_file():
        if not os.path.lexists(path):
            return []
        raise ValueError(f"{path} is no file, but must hold a line for each object. Take it away.")
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no text, but must hold a line for each object. Write it anew."
        ) from error


def read_line(words: Sequence[str], size: tuple[int, int], classes: Sequence[str]) -> YoloObject:
    """An object from the words of its line. size: (height, width) of the picture, in pixels.

    Raises ValueError for what is no object, saying what was expected.
    """
    number = _read_class(words[0], classes)
    numbers = [_read_fraction(word) for word in words[1:]]
    height, width = size
    if len(numbers) == _BOX:
        centre_x, centre_y, wide, high = numbers
        if wide < 0 or high < 0:
            raise ValueError(
                f"the box {' '.join(words[1:]):.80} has a negative size; expected cx cy w h"
            )
        box = ((centre_x - wide / 2) * width, (centre_y - high / 2) * height)
        extent = (wide * width, high * height)
        return YoloObject(number, (*box, *extent), extent[0] * extent[1])
    if len(numbers) < _SHORTEST_OUTLINE or len(numbers) % 2:
        raise ValueError(
            f"{len(numbers)} numbers stand behind the class; expected 4 for a box (cx cy w h), or "
            "6 and more, an even number, for an outline (x1 y1 x2 y2 x3 y3 ...)"
            + (". Is the fifth a score, and the file a prediction?" if len(numbers) == 5 else "")
        )
    outline = [value * (height if n % 2 else width) for n, value in enumerate(numbers)]
    left, right = min(outline[::2]), max(outline[::2])
    top, bottom = min(outline[1::2]), max(outline[1::2])
    mask = encode_polygons([outline], size)
    area = float(decode_counts(mask)[1::2].sum())
    return YoloObject(number, (left, top, right - left, bottom - top), area, mask)


def _read_class(word: str, classes: Sequence[str]) -> int:
    number = _number(word)
    if number != int(number):
        raise ValueError(
            f"the class {excerpt(word)} is no whole number; expected 0 to {len(classes) - 1}"
        )
    if not 0 <= number < len(classes):
        raise ValueError(
            f"the class {word:.80} is none of the {len(classes)} that there are: 0 to "
            f"{len(classes) - 1} ({', '.join(classes[:FEW])}{', ...' if len(classes) > FEW else ''}"
            "). Add its name to the classes (names in data.yaml), or correct the line."
        )
    return int(number)


def _read_fraction(word: str) -> float:
    number = _number(word)
    if not -_BEYOND <= number <= 1 + _BEYOND:
        raise ValueError(
            f"{word:.80} is not between 0 and 1; expected fractions of the picture's width and "
            "height. Are these pixels? Divide x by the width, y by the height."
        )
    return number


def _number(word: str) -> float:
    number = read_number(word)
    if not math.isfinite(number):
        raise ValueError(
            f"{excerpt(word)} is no number; expected a class and fractions, such as 0 0.5 0.5"
        )
    return number

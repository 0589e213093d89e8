"""Everything that is wrong with a COCO file, and what is left of it."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from detengine.data.annotations import FoundImages
from detengine.data.coco import keypoint_names_of, size_of_entry, size_of_file
from detengine.data.coco_file import (
    CocoFile,
    Entry,
    read_integer,
    read_json,
    read_name,
)
from detengine.data.coco_objects import ObjectReader
from detengine.data.salvage import pack_what_is_possible
from detengine.structures.categories import Categories, raise_if_no_class_name
from detengine.structures.finding import Problem
from detengine.structures.ground_truth import GroundTruth

T = TypeVar("T")


def salvage_coco(
    annotations: Path, images: Path, name: str, problems: list[Problem]
) -> GroundTruth:
    """As `load_coco`, without the entries that it refuses, which are added to the problems.

    Image files are looked at only where the file does not say their size. Raises ValueError or
    OSError, naming the file, where it is not there, or no COCO file at all.
    """
    file = read_json(annotations, name)
    categories, keypoint_names, lost_categories = _read_categories(file, problems)
    found, lost_images = _read_images(file, images, problems)
    reader = ObjectReader(file, categories, found, len(keypoint_names))
    objects = []
    for position, entry in enumerate(_entries(file)):
        if _refers_to(entry, "image_id", lost_images - reader.image_of_id.keys()):
            continue  # its image is among the problems already
        if _refers_to(entry, "category_id", lost_categories - reader.category_ids):
            continue
        place = f"annotation {entry.get('id', position)}"
        each = _attempt(partial(reader.read, position, entry), place, problems)
        if each is not None:
            objects.append(each)
    return pack_what_is_possible(
        annotations, categories, found, objects, problems, keypoint_names=keypoint_names
    )


def _entries(file: CocoFile) -> Iterator[Entry]:
    try:
        chunks = [file.entries(chunk) for chunk in file.chunks]
    except ValueError:  # found in a chunk that may have been cut in a wrong place
        if not file.is_cut_by_guess:
            raise
        file = file.cut_exactly()
        chunks = [file.entries(chunk) for chunk in file.chunks]
    return (entry for chunk in chunks for entry in chunk)


def _attempt(read: Callable[[], T], place: str, problems: list[Problem]) -> T | None:
    """What it reads; None, and a problem more, if it refuses to."""
    try:
        return read()
    except (ValueError, OSError) as error:
        problems.append(Problem(place, str(error)))
        return None


def _refers_to(entry: Entry, key: str, lost: set[int]) -> bool:
    return not lost.isdisjoint(_number(entry, key))


def _number(entry: Entry, key: str) -> set[int]:
    """What stands there, where it is a number at all."""
    given = entry.get(key)
    return {given} if isinstance(given, int) else set()


def _read_categories(
    file: CocoFile, problems: list[Problem]
) -> tuple[Categories, tuple[str, ...], set[int]]:
    """The classes, the names of their keypoints, and the ids of the classes that were left out."""
    names: list[str] = []
    ids: list[int] = []
    keypoint_names: tuple[str, ...] = ()
    lost: set[int] = set()
    for position, entry in enumerate(file.categories):
        where = f"category {position}"

        def read(where: str = where, entry: Entry = entry) -> tuple[str, int, tuple[str, ...]]:
            name = read_name(file.path, where, entry, "name")
            number = read_integer(file.path, where, entry, "id")
            raise_if_no_class_name(name, file.path)
            for kind, value, others in (("id", number, ids), ("name", name, names)):
                if value in others:
                    raise ValueError(
                        f"{file.path}: the {kind} {value!r} stands twice among the categories; "
                        "each must be unique. Rename or remove one of them."
                    )
            return name, number, keypoint_names_of(file.path, where, entry)

        each = _attempt(read, where, problems)
        if each is None:
            lost |= _number(entry, "id")
            continue
        names.append(each[0])
        ids.append(each[1])
        keypoint_names = keypoint_names or each[2]
        if each[2] and each[2] != keypoint_names:
            message = (
                f"{file.path}: {where} names other keypoints than the categories before it; one "
                "scheme for all is needed. Make a data set of each."
            )
            problems.append(Problem(where, message))
    return Categories(tuple(names), tuple(ids)), keypoint_names, lost


def _read_images(
    file: CocoFile, folder: Path, problems: list[Problem]
) -> tuple[FoundImages, set[int]]:
    """The images, and the ids of those that were left out."""
    found = FoundImages([], [], [])
    ids, names, sizes = [], [], []
    seen: dict[int, str] = {}
    lost: set[int] = set()
    for position, entry in enumerate(file.images):
        where = f"image {position}"

        def read(where: str = where, entry: Entry = entry) -> tuple[int, str, tuple[int, int]]:
            number = read_integer(file.path, where, entry, "id")
            name = read_name(file.path, where, entry, "file_name")
            if number in seen:
                raise ValueError(
                    f"{file.path}: image id {number} stands twice, for {seen[number]!r} and "
                    f"{name!r}; each must be unique. Was the file merged from several? Number "
                    "them anew."
                )
            if "height" in entry and "width" in entry:
                return number, name, size_of_entry(file.path, where, entry)
            return number, name, size_of_file(file.path, where, folder / name)

        each = _attempt(read, f"{where} ({entry.get('file_name')})", problems)
        if each is None:
            lost |= _number(entry, "id")
            continue
        seen[each[0]] = each[1]
        ids.append(each[0])
        names.append(each[1])
        sizes.append(each[2])
    found = FoundImages(ids, names, sizes)
    return found, lost

"""COCO's annotation files: boxes, polygons and run lengths, crowds, keypoints.

Format: https://cocodataset.org/#format-data. All masks become compressed run lengths of the image's
size while the file is read, polygons exactly as pycocotools' `annToRLE` makes them.
"""

from operator import mul
from pathlib import Path
from typing import cast

from detengine.data.annotation_cache import DependsOn, cached
from detengine.data.annotations import (
    FoundImages,
    named_categories,
    pack_columns,
    raise_if_folder_is_wrong,
    raise_if_twice,
)
from detengine.data.chunk_processes import number_of_helpers, read_chunks
from detengine.data.coco_chunks import KnownIds
from detengine.data.coco_file import (
    CocoFile,
    Entries,
    Entry,
    read_integer,
    read_json,
    read_name,
)
from detengine.data.coco_objects import ObjectReader
from detengine.data.images import read_size
from detengine.data.object_columns import ObjectColumns, integers
from detengine.structures.categories import Categories
from detengine.structures.ground_truth import GroundTruth
from detengine.untrusted.excerpt import excerpt

_WORTH_HELPERS = 40
"""From so many chunks on, helper processes save more time than they take to start."""
_MOST_PIXELS = 1 << 32
"""Of an image: run lengths have 32 bits."""


def load_coco(
    annotations: Path, images: Path | None, name: str, *, cache: Path | None = None
) -> GroundTruth:
    """Read a COCO file. annotations: the json; images: the folder; name: for messages.

    Images and categories stand in the file's order. An annotation without an id gets its position,
    from 1; without `area`, its mask's or its box's. An image without a size is asked for it. Where
    images is None, for scoring alone, no image is looked for, and each must have a size.
    cache: the folder that keeps what was read of a large file; see `annotation_cache`.
    Raises FileNotFoundError without the file, or if the first image is not in the folder; and
    ValueError, naming file and annotation, for what is missing, unknown, doubled or impossible. Of
    an annotation's keys that are not read, and their values, only the JSON's form is looked at.
    """

    def read() -> tuple[GroundTruth, DependsOn]:
        file = read_json(annotations, name)
        truth = parse_coco(file, images)
        return truth, None if file.asked_for_size else ()

    truth = cached(cache, annotations, images, "coco", read)
    if images is not None and len(truth):
        raise_if_folder_is_wrong(annotations, images, [truth.file_name(0)])
    return truth


def parse_coco(file: CocoFile, images: Path | None) -> GroundTruth:
    """As load_coco, of what `read_json` read."""
    categories, keypoint_names = _read_categories(file.path, file.categories)
    found = _read_images(file.path, images, file.images)
    parts = _read_annotations(file, categories, found, len(keypoint_names))
    return pack_columns(file.path, categories, found, parts, keypoint_names)


def _read_annotations(
    file: CocoFile, categories: Categories, images: FoundImages, joints: int
) -> list[ObjectColumns]:
    """All chunks: as a rule by `ChunkReader`; one that it has doubts about, by `ObjectReader`.

    joints: how many keypoints the categories name.
    """
    try:
        return _read_chunks(file, categories, images, joints)
    except ValueError:  # found in a chunk that may have been cut in a wrong place
        if not file.is_cut_by_guess:
            raise
        return _read_chunks(file.cut_exactly(), categories, images, joints)


def _read_chunks(
    file: CocoFile, categories: Categories, images: FoundImages, joints: int
) -> list[ObjectColumns]:
    """As _read_annotations. Raises CutError if a chunk was cut in a wrong place."""
    known = KnownIds(
        integers(images.ids), integers(images.sizes).reshape(-1, 2), integers(categories.ids)
    )
    reader = ObjectReader(file, categories, images, joints)
    helpers = number_of_helpers() if len(file.chunks) >= _WORTH_HELPERS else 0
    parts: list[ObjectColumns] = []
    position = 0
    with file.opened() as opened:
        for number, columns in enumerate(read_chunks(known, file.chunks, opened, helpers)):
            if columns is None or not reader.agrees(columns):
                columns = reader.read_chunk(number, position)
            parts.append(columns)
            position += len(columns)
    file.chunks.clear()  # they hold the whole file in memory
    return parts


def _read_categories(path: Path, entries: Entries) -> tuple[Categories, tuple[str, ...]]:
    """The classes, and the names of the keypoints of those that have any."""
    where = [f"category {position}" for position in range(len(entries))]
    pairs = list(zip(where, entries, strict=True))
    names = tuple(read_name(path, at, entry, "name") for at, entry in pairs)
    ids = tuple(read_integer(path, at, entry, "id") for at, entry in pairs)
    schemes = {keypoint_names_of(path, *pair) for pair in pairs} - {()}
    if len(schemes) > 1:
        raise ValueError(
            f"{path}: its categories name different keypoints ({sorted(map(len, schemes))} of "
            "them); one scheme for all is needed. Make a data set of each."
        )
    return named_categories(path, names, ids), schemes.pop() if schemes else ()


def keypoint_names_of(path: Path, where: str, entry: Entry) -> tuple[str, ...]:
    """Of a category; none where it has none. where: what the entry is, for messages."""
    names = entry.get("keypoints") or []
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise ValueError(
            f"{path}: the keypoints of {where} must be a list of their names, but are "
            f"{excerpt(names)}"
        )
    return tuple(names)


def _read_images(path: Path, folder: Path | None, entries: Entries) -> FoundImages:
    ids = _integers_of(entries, "id")
    if ids is None or max(map(abs, ids), default=0) >= 1 << 63:
        ids = [read_integer(path, f"image {n}", each, "id") for n, each in enumerate(entries)]
    raise_if_twice(path, "image id", ids)
    file_names = [
        read_name(path, f"image {n}", each, "file_name") for n, each in enumerate(entries)
    ]
    if folder is not None:
        raise_if_folder_is_wrong(path, folder, file_names)
    heights, widths = _integers_of(entries, "height"), _integers_of(entries, "width")
    if not entries or heights is None or widths is None or not _are_sizes(heights, widths):
        return FoundImages(ids, file_names, _sizes_one_by_one(path, folder, entries, file_names))
    return FoundImages(ids, file_names, list(zip(heights, widths, strict=True)))


def _integers_of(entries: Entries, key: str) -> list[int] | None:
    """One of each entry; None unless all have one, which is the rule."""
    values = [entry.get(key) for entry in entries]
    return cast(list[int], values) if set(map(type, values)) <= {int} else None


def _are_sizes(heights: list[int], widths: list[int]) -> bool:
    return min(heights) > 0 < min(widths) and max(map(mul, heights, widths)) < _MOST_PIXELS


def _sizes_one_by_one(
    path: Path, folder: Path | None, entries: Entries, file_names: list[str]
) -> list[tuple[int, int]]:
    """As the entries say, or else as the files do. Raises ValueError, naming the image."""
    return [
        size_of_entry(path, f"image {n}", entry)
        if folder is None or ("height" in entry and "width" in entry)
        else size_of_file(path, f"image {n}", folder / file_name)
        for n, (entry, file_name) in enumerate(zip(entries, file_names, strict=True))
    ]


def size_of_file(path: Path, where: str, image: Path) -> tuple[int, int]:
    """(height, width) as the image has it. Raises FileNotFoundError, or as `read_size` does."""
    try:
        return read_size(image)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{where} in {path} has no width and height, and there is no file {image} to read them "
            "from. Correct its file_name, or the folder of images."
        ) from error


def size_of_entry(path: Path, where: str, entry: Entry) -> tuple[int, int]:
    """(height, width) of an image. Raises ValueError for what is no size."""
    height, width = (_edge(path, where, entry, key) for key in ("height", "width"))
    if height * width >= _MOST_PIXELS:
        raise ValueError(
            f"{path}: {where} has {height} x {width} pixels (height x width), more than the 2**32 "
            "that masks can count. Correct its size."
        )
    return height, width


def _edge(path: Path, where: str, entry: Entry, key: str) -> int:
    pixels = read_integer(path, where, entry, key)
    if pixels < 1:
        raise ValueError(f"{path}: {key!r} of {where} must be at least 1 pixel, but is {pixels}")
    return pixels

"""LVIS's annotation files: COCO's, with what is known of the classes that are not annotated.

Format: https://www.lvisdataset.org/dataset (v1, and v0.5, whose images name COCO 2014's files).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detengine.data.annotation_cache import DependsOn, cached
from detengine.data.annotations import FEW, image_of_annotation
from detengine.data.coco import parse_coco
from detengine.data.coco_file import CocoFile, read_json, read_name
from detengine.structures.ground_truth import FederatedLabels, GroundTruth, PackedIntegers
from detengine.untrusted.excerpt import excerpt, listed

FREQUENCIES = ("r", "c", "f")
"""Rare, common, frequent: in up to 10, in up to 100, and in more of the training images."""


def load_lvis(
    annotations: Path, images: Path | None, name: str, *, cache: Path | None = None
) -> GroundTruth:
    """Read an LVIS file. annotations: the json; images: the folder; name: for messages.

    As `coco.load_coco`, whose errors it raises, and ValueError, naming file and entry, for what
    LVIS says beyond COCO: the negative and the not exhaustively annotated classes of each image,
    and the frequency of each class. An image is where its file_name says, or the last two parts or
    the last part of its coco_url. Raises FileNotFoundError if the first image is in none of them.
    """

    def read() -> tuple[GroundTruth, DependsOn]:
        return parse_lvis(read_json(annotations, name), images)

    return cached(cache, annotations, images, "lvis", read)


def load_coco_or_lvis(annotations: Path, name: str, *, cache: Path | None = None) -> GroundTruth:
    """Read a file of either format, for scoring without its images. As `load_lvis`, `load_coco`."""

    def read() -> tuple[GroundTruth, DependsOn]:
        file = read_json(annotations, name)
        if any("neg_category_ids" in entry for entry in file.images):
            return parse_lvis(file, None)
        return parse_coco(file, None), ()

    return cached(cache, annotations, None, "coco or lvis", read)


def parse_lvis(file: CocoFile, images: Path | None) -> tuple[GroundTruth, DependsOn]:
    """As load_lvis, of what `read_json` read; and the folders that were looked into."""
    path = file.path
    file_names, folders = _find_images(path, images, file.images)
    entries = [
        {**entry, "file_name": file_name}
        for entry, file_name in zip(file.images, file_names, strict=True)
    ]
    truth = parse_coco(replace(file, images=entries), images)
    known = frozenset(truth.categories.ids)
    federated = FederatedLabels(
        negative=_read_ids(path, entries, "neg_category_ids", known),
        not_exhaustive=_read_ids(path, entries, "not_exhaustive_category_ids", known),
        frequencies=_read_frequencies(path, file.categories),
    )
    _raise_if_annotated(path, truth, federated.negative)
    return replace(truth, federated=federated), None if file.asked_for_size else folders


def _find_images(
    path: Path, folder: Path | None, entries: Sequence[Mapping[str, Any]]
) -> tuple[list[str], Sequence[Path]]:
    """Each image's path below the folder, the first of the possible ones where none is there; and
    the folders that were looked into.
    """
    if folder is None:
        return [_names_of(path, f"image {n}", entry)[0] for n, entry in enumerate(entries)], ()
    there = _Files(folder)
    found = []
    for position, entry in enumerate(entries):
        names = _names_of(path, f"image {position}", entry)
        existing = [name for name in names if name in there]
        if not existing and position == 0:
            reason = "it has no such file" if folder.is_dir() else "there is no such folder"
            raise FileNotFoundError(
                f"{path} lists {' or '.join(map(repr, names))} as its first image, expected in "
                f"{folder}, but {reason}. Is the data set's image folder right?"
            )
        found.append((existing or names)[0])
    return found, there.folders()


def _names_of(path: Path, where: str, entry: Mapping[str, Any]) -> list[str]:
    """Where an image may be: v1 gives addresses only, v0.5 also its name in COCO 2014's folders."""
    names = []
    if "file_name" in entry:
        names.append(_text(path, where, entry, "file_name"))
    if "coco_url" in entry:
        parts = _text(path, where, entry, "coco_url").split("/")
        names += ["/".join(parts[-2:]), parts[-1]]
    if not names:
        raise ValueError(
            f"{path}: {where} has neither a 'coco_url' nor a 'file_name', one of which LVIS's "
            f"format asks for; it has {listed(sorted(entry))}"
        )
    return names


def _text(path: Path, where: str, entry: Mapping[str, Any], key: str) -> str:
    if not isinstance(entry[key], str):
        raise ValueError(f"{path}: {key!r} of {where} must be text, but is {excerpt(entry[key])}")
    return read_name(path, where, entry, key)


class _Files:
    """What is below a folder. Each folder is listed once: of a disk far away, no file is asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listed: dict[str, frozenset[str]] = {}

    def __contains__(self, name: str) -> bool:
        parent, _, own_name = name.rpartition("/")
        if parent not in self._listed:
            folder = self._folder / parent
            inside = folder.iterdir() if folder.is_dir() else ()
            self._listed[parent] = frozenset(each.name for each in inside)
        return own_name in self._listed[parent]

    def folders(self) -> list[Path]:
        """Those that have been listed."""
        return [self._folder / parent for parent in self._listed]


def _read_ids(
    path: Path, entries: Sequence[Mapping[str, Any]], key: str, known: frozenset[int]
) -> PackedIntegers:
    """One list of category ids for each image."""
    lists = []
    for entry in entries:
        where = f"image {entry['id']}"
        ids = _require(path, where, entry, key)
        if not isinstance(ids, list) or not all(type(each) is int for each in ids):
            raise ValueError(
                f"{path}: {key!r} of {where} must be a list of category ids, but is {excerpt(ids)}"
            )
        unknown = [each for each in ids if each not in known]
        if unknown:
            raise ValueError(
                f"{path}: {key!r} of {where} has the unknown category {unknown[0]}; the file has "
                f"{len(known)} categories. Add it to them, or take it out of the list."
            )
        lists.append(ids)
    return PackedIntegers.from_lists(lists)


def _read_frequencies(path: Path, entries: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    found = []
    for entry in entries:
        where = f"category {entry['id']} ({entry['name']})"
        frequency = _require(path, where, entry, "frequency")
        if frequency not in FREQUENCIES:
            raise ValueError(
                f"{path}: 'frequency' of {where} must be 'r', 'c' or 'f' (rare, common or "
                f"frequent), but is {excerpt(frequency)}"
            )
        found.append(frequency)
    return tuple(found)


def _require(path: Path, where: str, entry: Mapping[str, Any], key: str) -> Any:
    if key not in entry:
        raise ValueError(
            f"{path}: {where} has no {key!r}, which LVIS's format asks for; it has "
            f"{listed(sorted(entry))}. If this is a plain COCO file, set the data set's FORMAT to "
            "coco."
        )
    return entry[key]


def _raise_if_annotated(path: Path, truth: GroundTruth, negative: PackedIntegers) -> None:
    """An image has a class or lacks it: LVIS's positive and negative images are disjoint."""
    annotated = zip(image_of_annotation(truth).tolist(), truth.category_ids.tolist(), strict=True)
    positives = set(annotated)
    culprits = [
        (int(truth.image_ids[index]), category_id)
        for index in range(len(truth))
        for category_id in negative[index]
        if (index, category_id) in positives
    ]
    if culprits:
        image_id, category_id = culprits[0]
        raise ValueError(
            f"{path}: image {image_id} has annotations of category {category_id}, which its "
            "'neg_category_ids' says is not in it; expected at most one of the two. "
            f"{len(culprits)} such pairs of image and category: {culprits[:FEW]}. Take the "
            "category out of the list, or the annotations out of the file."
        )

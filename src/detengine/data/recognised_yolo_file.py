"""YOLO's data.yaml: where the splits are, and what the classes are called."""

import os
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detengine.data.folder_listing import Listing, normalised
from detengine.data.recognised_splits import FoundData
from detengine.data.recognised_yolo_labels import definition_of, labels_of
from detengine.untrusted.excerpt import excerpt

_SPLITS = ("train", "val", "test")
_LIST = ".txt"


def is_data_file(values: object) -> bool:
    """Whether YAML says what YOLO's data.yaml says."""
    return isinstance(values, dict) and "names" in values and bool(values.keys() & {"train", "val"})


def read_data_file(listing: Listing, path: str, values: Mapping[str, Any]) -> FoundData:
    """What the file describes. values: its YAML.

    Places start at `path`, which starts at the file, or at the file itself. Raises ValueError for
    names that are none, and FileNotFoundError or ValueError for places that are not in the folder.
    """
    source = listing.path(path)
    if "kpt_shape" in values:
        raise ValueError(
            f"{source} describes keypoints (kpt_shape), which are not read from YOLO's files; "
            "export them as COCO's json, which has them"
        )
    classes = _class_names(source, values)
    notes: list[str] = []
    splits: dict[str, list[dict[str, object]]] = {}
    for split in _SPLITS:
        places = _places(listing, path, values, split, notes)
        if places:
            splits[split] = [_definition(listing, place, classes, path) for place in places]
    if "train" not in splits:
        raise ValueError(f"{source} names no images to train on; expected a folder as `train`")
    if splits.get("val") == splits["train"]:
        del splits["val"]
        notes.append(f"{path} names the same images for val as for train, which tells nothing")
    return FoundData(splits, classes, notes)


def _class_names(source: Path, values: Mapping[str, Any]) -> tuple[str, ...]:
    names = values["names"]
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise ValueError(
                f"{source}: the numbers of `names` are {', '.join(map(str, names))}; expected 0 to "
                f"{len(names) - 1}, each once"
            )
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(
            f"{source}: `names` is {str(names)[:80]!r}; expected the classes' names as a list, or "
            "by number, such as {0: cat, 1: dog}"
        )
    strange = [name for name in names if type(name) not in (str, int)]
    if strange:
        raise ValueError(
            f"{source}: `names` has {excerpt(strange[0])} ({type(strange[0]).__name__}), which "
            "YAML does not take for a text. Put the name in quotes."
        )
    count = values.get("nc", len(names))
    if count != len(names):
        raise ValueError(
            f"{source}: `nc` is {count}, but `names` has {len(names)}: "
            f"{', '.join(map(str, names[:10]))}. Correct one of them."
        )
    return tuple(map(str, names))


def _places(
    listing: Listing, path: str, values: Mapping[str, Any], split: str, notes: list[str]
) -> list[str]:
    """The folders and lists of a split, relative to the root. Of test, those that are there."""
    given = values.get(split)
    entries = given if isinstance(given, list) else [given]
    places = []
    for entry in entries:
        if entry is None:
            continue
        if not isinstance(entry, str):
            raise ValueError(
                f"{listing.path(path)}: `{split}` is {str(entry)[:80]!r}; expected a folder of "
                "images or a .txt file that lists them"
            )
        try:
            places.append(_place(listing, path, str(values.get("path") or ""), split, entry))
        except FileNotFoundError as error:
            if split != "test":
                raise
            notes.append(f"test is left out: {error}")
    return places


def _place(listing: Listing, path: str, base: str, split: str, entry: str) -> str:
    folder = posixpath.dirname(path)
    entries = [entry, *([entry.removeprefix("../")] if entry.startswith("../") else [])]
    tried = [
        _relative(listing, folder, Path(start, each))
        for start in dict.fromkeys((base, ""))
        for each in entries
    ]
    for place in tried:
        if place in listing.files or listing.has("", place):
            return place
    outside = [place for place in tried if listing.path(place).exists()]
    if outside:
        raise ValueError(
            f"{listing.path(path)}: `{split}` is {entry!r}, which leads out of {listing.root}, to "
            f"{listing.path(outside[0])}. Only what lies in the folder is used: name a folder that "
            "holds all of it, or describe the data in a configuration file (FORMAT: yolo)."
        )
    looked_for = " and ".join(dict.fromkeys(str(listing.path(place)) for place in tried))
    raise FileNotFoundError(
        f"{listing.path(path)}: `{split}` is {entry!r}, but there is no such folder or file: "
        f"looked for {looked_for}. Correct `{split}` or `path`"
        + (", or take `val` out: then a part of the training images is held out" * (split == "val"))
        + "."
    )


def _relative(listing: Listing, folder: str, place: Path) -> str:
    """A place that starts at a folder of the listing, from the root; it may lead out of it."""
    if not place.is_absolute():
        return normalised(folder, place.as_posix())
    from_root = Path(os.path.relpath(place.resolve(), listing.root.resolve()))
    return normalised("", from_root.as_posix())


def _definition(
    listing: Listing, place: str, classes: tuple[str, ...], path: str
) -> dict[str, object]:
    if place.endswith(_LIST):
        return definition_of(place, None, classes)
    nested = normalised(place, "images")
    if not listing.images_in(place) and nested in listing.files:
        place = nested
    if not any(listing.images_in(each) for each in listing.below(place)):
        raise FileNotFoundError(
            f"{listing.path(path)} names {listing.path(place)}, which holds no images"
        )
    labels = labels_of(listing, place, is_certain=True)
    if labels is None:
        raise FileNotFoundError(
            f"{listing.path(place)}, which {listing.path(path)} names, has no labels: expected "
            "a .txt file for each image, beside it or in a folder called labels in place of images"
        )
    return definition_of(place, labels, classes)

"""YOLO's layout in a folder: by its data.yaml, or by images and labels of the same names."""

import posixpath
from collections.abc import Mapping
from typing import Any

import yaml

from detengine.data.folder_listing import Listing, split_of
from detengine.data.lists import read_list
from detengine.data.recognised_splits import FoundData
from detengine.data.recognised_yolo_file import is_data_file, read_data_file
from detengine.data.recognised_yolo_labels import definition_of, labels_of

_MOST_LEVELS = 50
_MOST_FILES = 50
"""Of YAML files that are looked at."""
_FEW = 3
_CLASS_FILES = (".names", "classes.txt")


def find_yolo(listing: Listing, passed_over: list[str]) -> FoundData | None:
    """As find_coco, of YOLO's files."""
    described = {
        path: values
        for path in listing.files_with_suffix(".yaml", ".yml")[:_MOST_FILES]
        if (values := _read_yaml(listing, path, passed_over)) is not None
    }
    if len(described) > 1:
        raise ValueError(
            f"{listing.root} holds several descriptions of YOLO data: {', '.join(described)}. "
            "Take all but one away, or name the folder of the one that is meant."
        )
    if described:
        [(path, values)] = described.items()
        return read_data_file(listing, path, values)
    return _without_description(listing, passed_over)


def _read_yaml(listing: Listing, path: str, passed_over: list[str]) -> Mapping[str, Any] | None:
    text = listing.path(path).read_bytes()
    try:
        _raise_if_unfit(text)
        values = yaml.safe_load(text)
    except MemoryError:
        raise
    except Exception as error:  # whatever strange text makes PyYAML raise
        if posixpath.basename(path) in ("data.yaml", "dataset.yaml"):
            raise ValueError(f"{listing.path(path)} is no valid YAML: {error}") from error
        passed_over.append(f"{path} is no valid YAML")
        return None
    return values if is_data_file(values) else None


def _raise_if_unfit(text: bytes) -> None:
    """Raise YAMLError for what would take for ever to read, or be read in part without a word."""
    level = 0
    for event in yaml.parse(text):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(
                "it has an alias (*name), which is refused; write its value instead"
            )
        level += isinstance(event, yaml.CollectionStartEvent)
        level -= isinstance(event, yaml.CollectionEndEvent)
        if level > _MOST_LEVELS:
            raise yaml.YAMLError("it is nested too deeply")
    _raise_if_key_twice(yaml.compose(text, yaml.SafeLoader))


def _raise_if_key_twice(node: yaml.Node | None) -> None:
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _raise_if_key_twice(each)
    if not isinstance(node, yaml.MappingNode):
        return
    line_of: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if str(key.value) in line_of:
            raise yaml.YAMLError(
                f"{key.value} stands twice, in lines {line_of[str(key.value)]} and {line}; remove "
                "one of them"
            )
        line_of[str(key.value)] = line
        _raise_if_key_twice(value)


def _without_description(listing: Listing, passed_over: list[str]) -> FoundData | None:
    pairs = [
        (folder, labels)
        for folder in listing.files
        if listing.images_in(folder)
        and (labels := labels_of(listing, folder, is_certain=False)) is not None
    ]
    if not pairs:
        texts = listing.with_suffix(".txt")[:_FEW]
        passed_over.extend(f"{path} is no YOLO label of an image" for path in texts)
        return None
    classes = _class_names(listing)
    splits: dict[str, list[dict[str, object]]] = {}
    for images, labels in pairs:
        splits.setdefault(split_of(images) or "train", []).append(
            definition_of(images, labels, classes)
        )
    if "train" not in splits:
        if len(splits) > 1:
            raise ValueError(
                f"{listing.root} holds images with YOLO labels in "
                f"{', '.join(images for images, _ in pairs)}, and none of these folders says by "
                "its name that it is for training; rename it to train"
            )
        splits = {"train": next(iter(splits.values()))}
    return FoundData(splits, classes)


def _class_names(listing: Listing) -> tuple[str, ...]:
    """The names that classes.txt or obj.names lists, one on each line."""
    found: dict[tuple[str, ...], str] = {}
    for path in listing.files_with_suffix(*_CLASS_FILES):
        names = tuple(name for _, name in read_list(listing.path(path)))
        found.setdefault(names, path)
    if () in found:
        raise ValueError(
            f"{listing.path(found[()])} names no class. Write the classes' names into it, each on "
            "a line of its own, that of class 0 first; or take it away, if another file names them."
        )
    if len(found) == 1:
        return next(iter(found))
    if found:
        raise ValueError(
            f"{' and '.join(found.values())} in {listing.root} name different classes; keep the "
            "one that belongs to the labels"
        )
    raise ValueError(
        f"{listing.root} holds images with YOLO labels, but no names of their classes. Put a "
        "classes.txt there, with a name on each line, that of class 0 first; or a data.yaml."
    )

"""COCO json files in a folder, wherever they lie, and the folders of their images."""

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

from detengine.data.coco_file import raise_if_no_json, read_json
from detengine.data.folder_listing import Listing, split_of
from detengine.data.recognised_splits import (
    FoundData,
    by_split,
    folder_of_images,
    name_in_a_file,
)

_KEYS = ("images", "annotations", "categories")
_TASKS = re.compile(r"^(instances|person_keypoints|stuff)_")
"""How COCO's own files of one split begin, one for each task; the first is detection."""


@dataclass(frozen=True)
class _Candidate:
    path: str
    file_names: Sequence[str]
    class_names: tuple[str, ...]


def find_coco(listing: Listing, passed_over: list[str]) -> FoundData | None:
    """The folder's COCO files by split. passed_over: what was looked at and is none, with reasons.

    Raises ValueError for a damaged file, for several of one split, and where images are missing.
    """
    notes: list[str] = []
    candidates = {
        each.path: each
        for path in listing.files_with_suffix(".json")
        if (each := _candidate(listing, path, passed_over, notes)) is not None
    }
    if not candidates:
        return None
    chosen = {
        split: _only_one(listing, paths, list(candidates), notes)
        for split, paths in _splits(listing, list(candidates), notes).items()
    }
    splits = {
        split: [_definition(listing, candidates[path], split)] for split, path in chosen.items()
    }
    names = [name for path in chosen.values() for name in candidates[path].class_names]
    return FoundData(splits, tuple(dict.fromkeys(names)), notes)


def _candidate(
    listing: Listing, path: str, passed_over: list[str], notes: list[str]
) -> _Candidate | None:
    """The file, if it is COCO's. What is near to it, and is passed over, is in the notes, too."""
    data = listing.path(path).read_bytes()
    missing = [key for key in _KEYS if f'"{key}"'.encode() not in data]
    reason = None
    if missing:
        reason = f"{path} is no COCO file: it has no {' and no '.join(missing)}"
        if "images" not in missing:
            raise_if_no_json(listing.path(path), data)  # cut off before its categories, say
    elif b'"segments_info"' in data:
        reason = f"{path} has COCO's panoptic annotations, not those of objects"
    if reason is not None:
        passed_over.append(reason)
        if "images" not in missing:
            notes.append(f"passed over: {reason}")
        return None
    file = read_json(listing.path(path), path)
    return _Candidate(
        path,
        [str(each.get("file_name", "")) for each in file.images],
        tuple(str(each.get("name", "")) for each in file.categories),
    )


def _splits(listing: Listing, paths: list[str], notes: list[str]) -> dict[str, list[str]]:
    """The paths by train, val and test; what names none of these is for training, if it is all."""
    found = by_split(paths)
    unnamed = found.pop(None, [])
    splits = {split: each for split, each in found.items() if split is not None}
    if "train" in splits:
        if unnamed:
            notes.append(f"passed over, as their names say no split: {', '.join(unnamed)}")
        return splits
    if len(paths) == 1:
        return {"train": paths}
    if unnamed:
        return {"train": unnamed, **splits}
    raise ValueError(
        f"{listing.root} holds {', '.join(paths)}, and none of them says by its name that it is "
        f"for training. {_cure(listing, paths)}"
    )


def _only_one(listing: Listing, paths: list[str], all_paths: list[str], notes: list[str]) -> str:
    """The file of a split; of COCO's own files for several tasks, that of detection."""
    if len(paths) == 1:
        return paths[0]
    folders = {posixpath.dirname(path) for path in paths}
    names = [posixpath.basename(path) for path in paths]
    of_instances = [path for path in paths if posixpath.basename(path).startswith("instances_")]
    if len(folders) == len({_TASKS.sub("", name) for name in names}) == len(of_instances) == 1:
        others = [path for path in paths if path not in of_instances]
        notes.append(f"{of_instances[0]} was chosen; passed over: {', '.join(others)}")
        return of_instances[0]
    raise ValueError(
        f"{listing.root} holds {len(paths)} COCO files that may be meant: {', '.join(paths)}. "
        f"{_cure(listing, all_paths)}"
    )


def _cure(listing: Listing, paths: list[str]) -> str:
    of_val = [path for path in paths if split_of(path) == "val"]
    train, val = (
        f"{{FORMAT: coco, IMAGES: path/to/images, ANNOTATIONS: {path}}}"
        for path in (paths[0], (of_val or paths)[-1])
    )
    return name_in_a_file(listing, train, val)


def _definition(listing: Listing, found: _Candidate, split: str) -> dict[str, str]:
    if not found.file_names:
        raise ValueError(f"{listing.path(found.path)} lists no images; take the file away")
    folder = folder_of_images(listing, posixpath.dirname(found.path), found.file_names, split)
    if folder is None:
        raise FileNotFoundError(
            f"{listing.path(found.path)} lists images ({len(found.file_names)}, such as "
            f"{found.file_names[0]!r}), but no folder in {listing.root} has them. Put them there; "
            "paths in the file start at that folder or one in it."
        )
    return {"FORMAT": "coco", "IMAGES": folder or ".", "ANNOTATIONS": found.path}

"""Which folder holds YOLO's labels for a folder of images."""

import posixpath
from itertools import islice

from detengine.data.folder_listing import NOT_LABELS, Listing, normalised

_SNIFFED = 5
"""Label files that are looked at before they are taken for such."""
_SHORTEST = 5
"""Words of a line: a class and a box."""


def definition_of(images: str, labels: str | None, classes: tuple[str, ...]) -> dict[str, object]:
    """A data set as DATASETS.DEFINE takes it. images, labels: folders, relative to the root."""
    place = {} if labels is None else {"LABELS": labels or "."}
    return {"FORMAT": "yolo", "IMAGES": images or ".", **place, "CLASSES": list(classes)}


def labels_of(listing: Listing, images: str, *, is_certain: bool) -> str | None:
    """The folder of the labels for a folder of images; None where there are none.

    It is the one with labels in place of the last images in its path, or else the folder itself.
    is_certain: whether they are known to be YOLO's; else the first of them must look so, and
    images in the folders below are not looked at.
    """
    parts = images.split("/")
    places = [index for index, part in enumerate(parts) if part == "images"]
    candidates = [images]
    if places:
        candidates.insert(0, "/".join([*parts[: places[-1]], "labels", *parts[places[-1] + 1 :]]))
    folders = list(listing.below(images)) if is_certain else [images]
    for candidate in candidates:
        for folder in folders:
            place = normalised(candidate, posixpath.relpath(folder or ".", images or "."))
            named = _named_like_images(listing, folder, place)
            if named and (is_certain or _look_like_labels(listing, place, named)):
                return candidate
    return None


def _named_like_images(listing: Listing, images: str, labels: str) -> list[str]:
    stems = {posixpath.splitext(name)[0] for name in listing.images_in(images)}
    return sorted(
        name
        for name in listing.files.get(labels, frozenset())
        if name.endswith(".txt") and name not in NOT_LABELS and name[: -len(".txt")] in stems
    )


def _look_like_labels(listing: Listing, folder: str, names: list[str]) -> bool:
    """Whether the first lines of the first of these files are a class and numbers."""
    lines = (_first_line(listing, posixpath.join(folder, name)) for name in names)
    return all(map(_looks_like_label, islice(filter(None, lines), _SNIFFED)))


def _first_line(listing: Listing, path: str) -> str:
    if not listing.path(path).is_file():  # a pipe would be waited for
        return ""
    with listing.path(path).open(encoding="utf-8", errors="replace") as file:
        return file.readline().strip()


def _looks_like_label(line: str) -> bool:
    words = line.split()
    try:
        return len(words) >= _SHORTEST and all(float(word) is not None for word in words)
    except ValueError:
        return False

"""Which folder holds YOLO's labels for a folder of images."""

import posixpath

from detengine.data.folder_listing import NOT_LABELS, Listing, normalised

_SNIFFED = 5
"""Label files that are looked at before they are taken for such."""
_SHORTEST = 5
"""Words of a line: a class and a box."""


def definition_of(images: str, labels: str | None, classes: tuple[str, ...]) -> dict[str, object]:
    place = {} if labels is None else {"LABELS": labels or "."}
    return {"FORMAT": "yolo", "IMAGES": images or ".", **place, "CLASSES": list(classes)}


def labels_of(listing: Listing, images: str, *, only_here: bool = False) -> str | None:
    """The folder of the labels for a folder of images; None where there are none.

    It is the one with labels in place of the last images in its path, or else the folder itself.
    only_here: images in the folders below are not looked at.
    """
    parts = images.split("/")
    places = [index for index, part in enumerate(parts) if part == "images"]
    candidates = [images]
    if places:
        candidates.insert(0, "/".join([*parts[: places[-1]], "labels", *parts[places[-1] + 1 :]]))
    folders = [images] if only_here else list(listing.below(images))
    for candidate in candidates:
        for folder in folders:
            place = normalised(candidate, posixpath.relpath(folder or ".", images or "."))
            if _has_labels(listing, folder, place):
                return candidate
    return None


def _has_labels(listing: Listing, images: str, labels: str) -> bool:
    """Whether a folder has text files named like images, and the first of them look like labels."""
    stems = {posixpath.splitext(name)[0] for name in listing.images_in(images)}
    named = sorted(
        name
        for name in listing.files.get(labels, frozenset())
        if name.endswith(".txt") and name not in NOT_LABELS and name[: -len(".txt")] in stems
    )
    sniffed = [_first_line(listing, posixpath.join(labels, name)) for name in named]
    lines = [line for line in sniffed if line][:_SNIFFED]
    return bool(named) and all(map(_looks_like_label, lines))


def _first_line(listing: Listing, path: str) -> str:
    with listing.path(path).open(encoding="utf-8", errors="replace") as file:
        return file.readline().strip()


def _looks_like_label(line: str) -> bool:
    words = line.split()
    try:
        return len(words) >= _SHORTEST and all(float(word) is not None for word in words)
    except ValueError:
        return False

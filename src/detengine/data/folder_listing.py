"""All files below a folder, looked at once. Without torch, as everything that only recognises."""

import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
"""What is taken for an image where other files stand beside it."""
NOT_LABELS = frozenset({"classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt"})
"""Text files that stand among YOLO's labels and are none."""

_SPLITS = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Listing:
    """files: by folder, relative to the root with / between ("" is the root), its files' names."""

    root: Path
    files: Mapping[str, frozenset[str]]

    def has(self, folder: str, file_name: str) -> bool:
        """Whether there is such a file. file_name: relative to the folder; it may have folders."""
        place, name = posixpath.split(normalised(folder, file_name))
        return name in self.files.get(place, frozenset())

    def with_suffix(self, *suffixes: str) -> list[str]:
        """The paths of such files: those of the root first, then by name."""
        found = [
            posixpath.join(folder, name)
            for folder, names in self.files.items()
            for name in names
            if name.lower().endswith(suffixes)
        ]
        return sorted(found, key=lambda path: (path.count("/"), path))

    def files_with_suffix(self, *suffixes: str) -> list[str]:
        """As with_suffix, without pipes and devices, which would be read without end."""
        return [path for path in self.with_suffix(*suffixes) if self.path(path).is_file()]

    def images_in(self, folder: str) -> list[str]:
        """The names of the images that lie directly in a folder."""
        names = self.files.get(folder, frozenset())
        return sorted(name for name in names if is_image(name))

    def below(self, folder: str) -> Iterator[str]:
        """The folder, if it is there, and all folders in it."""
        for each in self.files:
            if each == folder or not folder or each.startswith(f"{folder}/"):
                yield each

    def path(self, relative: str) -> Path:
        return self.root / relative


def list_folder(root: Path) -> Listing:
    """What is below a folder, without what is hidden; links are followed, each folder once.

    Raises FileNotFoundError or NotADirectoryError, with the cure.
    """
    if not root.exists():
        raise FileNotFoundError(f"the data folder {root} does not exist. Is its path right?")
    if not root.is_dir():
        raise NotADirectoryError(
            f"{root} is a file, but a folder is expected, with images and annotations in it. A "
            "configuration file is given by -c."
        )
    files: dict[str, frozenset[str]] = {}
    for place, names in walk_once(root, with_hidden=False):
        relative = Path(place).relative_to(root).as_posix()
        visible = frozenset(each for each in names if not _is_hidden(each))
        files["" if relative == "." else relative] = visible
    return Listing(root, files)


def walk_once(root: Path, *, with_hidden: bool) -> Iterator[tuple[str, list[str]]]:
    """Each folder below, and the names of its files.

    Links are followed, but no folder is there twice: one may be linked to from inside itself.
    """
    seen: set[str] = set()
    for place, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(each for each in folders if with_hidden or not _is_hidden(each))
        yield place, names


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def normalised(folder: str, path: str) -> str:
    """A path that starts at a folder, without . and .. where they can be resolved; "" is here."""
    joined = posixpath.normpath(posixpath.join(folder, path))
    return "" if joined == "." else joined


def is_image(name: str) -> bool:
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES


def split_of(path: str) -> str | None:
    """train, val or test, as a path says: its last part that has such a word, else None."""
    for part in reversed(path.split("/")):
        words = [_SPLITS[word] for word in re.findall(r"[a-z]+", part.lower()) if word in _SPLITS]
        if words:
            return words[-1]
    return None


def shared_beginning(one: str, other: str) -> int:
    """How many folders two relative paths have in common from the left."""
    pairs = zip(one.split("/"), other.split("/"), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), len(one.split("/")))

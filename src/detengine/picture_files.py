"""The pictures and videos that a command line names: files, folders, patterns."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from detengine.data.folder_listing import IMAGE_SUFFIXES
from detengine.data.video import VIDEO_SUFFIXES

_WILD = frozenset("*?[")


class PictureFile(NamedTuple):
    """name: relative to the folder that all of them have in common, with / between; of no other."""

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES


class FoundFiles(NamedTuple):
    """passed_over: how many other files were in the folders."""

    pictures: list[PictureFile]
    videos: list[PictureFile]
    passed_over: int


def find_pictures(given: Sequence[str], *, beside: Path) -> FoundFiles:
    """All pictures and videos that are named, each once, in the order of the names given.

    given: files, which are pictures whatever they are called, if they have no video's suffix;
    folders, of which files with known suffixes are taken, with all folders in them, but for hidden
    ones; and patterns such as "scans/**/*.png", if the shell has not resolved them.
    beside: the folder that is written to, whose files are none of them.
    Raises FileNotFoundError for a name without a file; ValueError where nothing is found, or where
    a file is named that is in the folder that is written to.
    """
    paths: dict[str, None] = {}
    passed_over, output = 0, os.path.abspath(beside)  # noqa: PTH100
    for each in given:
        found, others = _files_of(each, output)
        paths |= dict.fromkeys(found)
        passed_over += others
    inside = [path for path in paths if path.startswith(f"{output}{os.sep}")]
    if inside:
        raise ValueError(
            f"{inside[0]} is in the folder that is written to, {beside}, where it could be "
            "replaced by its drawing. Name another folder by --output-dir."
        )
    common = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120
    files = [PictureFile(Path(path), Path(path).relative_to(common).as_posix()) for path in paths]
    pictures = [each for each in files if not each.is_video]
    return FoundFiles(pictures, [each for each in files if each.is_video], passed_over)


def _files_of(given: str, beside: str) -> tuple[list[str], int]:
    """The absolute paths of what one name stands for, and the number of files of other kinds."""
    path = Path(given)
    if path.is_file():
        return [os.path.abspath(given)], 0  # noqa: PTH100 - a link keeps its name
    if path.is_dir():
        return _in_folder(path, beside)
    matching = sorted(glob.glob(given, recursive=True)) if _WILD & set(given) else []  # noqa: PTH207
    files = [os.path.abspath(each) for each in matching if Path(each).is_file()]  # noqa: PTH100
    if not files:
        what = "no file matches" if _WILD & set(given) else "there is no"
        raise FileNotFoundError(
            f"{what} {given}. Give pictures, videos, folders that hold some, or a pattern such as "
            "'scans/**/*.png'."
        )
    return files, 0


def _in_folder(folder: Path, beside: str) -> tuple[list[str], int]:
    if os.path.abspath(folder) == beside:  # noqa: PTH100
        raise ValueError(
            f"the folder {folder} is the one that is written to, where pictures could be replaced "
            "by their drawings. Name another folder by --output-dir."
        )
    files = list(_visible_files(folder, beside))
    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    found = [path for path in files if os.path.splitext(path)[1].lower() in known]  # noqa: PTH122
    if not found:
        others = f"{len(files)} other files" if files else "no files at all"
        raise ValueError(
            f"the folder {folder} holds no picture and no video, but {others}. In a folder, files "
            f"with these suffixes are taken: {', '.join(sorted(known))}. Name others themselves."
        )
    return found, len(files) - len(found)


def _visible_files(folder: Path, beside: str) -> Iterator[str]:
    """Absolute paths, sorted, folder by folder."""
    for place, folders, names in os.walk(os.path.abspath(folder)):  # noqa: PTH100
        if place == beside:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (
            os.path.join(place, name)  # noqa: PTH118
            for name in sorted(names)
            if not name.startswith(".")
        )

"""COCO results with what they are about: images by name, categories by name, in one json.

    {"annotations": [{"image_id": 1, "category_id": 2, "bbox": [x, y, w, h], "score": 0.9}, ...],
     "images": [{"id": 1, "file_name": "a/b.jpg", "width": 640, "height": 480}, ...],
     "categories": [{"id": 2, "name": "cat"}, ...]}

The ids are the file's own, so that it is scored by name, on any data set that has its images and
classes. A frame of a video has its `frame` and `seconds` too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from detengine.disk.writing import naming, remove_quietly
from detengine.structures.ground_truth import GroundTruth
from detengine.untrusted.excerpt import excerpt, listed
from detengine.untrusted.links import without_link

_BEGINNING, _BETWEEN = b'{"annotations": [\n', b",\n"


class DescribedResultsWriter:
    """Writes such a file as images come, aside, and in its place when the block ends.

    However it ends: what was written until then is whole; where that cannot be written, as on a
    full disk, nothing is left. class_names: of the labels 1..K, which are the category ids, as far
    as they are known; those that come beside entries are added. Of an image only its own line is
    kept in memory.
    """

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        self._path = path
        self._aside = path.with_name(f"{path.name}.part")
        self._categories = dict(enumerate(class_names, start=1))
        self._images: list[bytes] = []
        with naming(path):
            self._file = without_link(self._aside).open("wb")
        self._separator = _BEGINNING

    def __enter__(self) -> "DescribedResultsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            with naming(self._path):
                self._finish()
                self._aside.replace(self._path)
        except OSError:
            remove_quietly(self._aside)
            raise

    def _finish(self) -> None:
        with self._file as file:
            file.write(_BEGINNING if self._separator == _BEGINNING else b"")
            file.write(b'\n],\n"images": [\n' + _BETWEEN.join(self._images))
            categories = [{"id": id_, "name": name} for id_, name in self._categories.items()]
            file.write(b'\n],\n"categories": ' + orjson.dumps(categories) + b"}\n")

    def next_image_id(self) -> int:
        """1 for the first."""
        return len(self._images) + 1

    def add(
        self,
        file_name: str,
        size: tuple[int, int],
        entries: Sequence[Mapping[str, Any]],
        names: Sequence[str],
        **more: float,
    ) -> None:
        """The next image, of this (height, width), with its entries, whose image_id is the next.

        names: each entry's class. more: what is to stand beside the image's name, of which bytes
        that are no UTF-8 become escapes.
        """
        for entry, name in zip(entries, names, strict=True):
            with naming(self._path):
                self._file.write(self._separator + orjson.dumps(entry))
            self._separator = _BETWEEN
            self._categories.setdefault(entry["category_id"], name)
        height, width = size
        text = file_name.encode(errors="backslashreplace").decode()
        image = {"id": self.next_image_id(), "file_name": text}
        self._images.append(orjson.dumps({**image, "width": width, "height": height, **more}))


def is_described(content: object) -> bool:
    """Whether a json's content is of this kind, and not of an annotation file: it has scores."""
    if not isinstance(content, dict) or not {"annotations", "images", "categories"} <= set(content):
        return False
    entries = content["annotations"]
    return isinstance(entries, list) and all(
        isinstance(each, dict) and "score" in each for each in entries
    )


def in_ids_of(path: Path, content: Mapping[str, Any], truth: GroundTruth) -> list[dict[str, Any]]:
    """The entries with the ids of the truth's images and categories of the same names.

    An image's name is its path; where that is none of the truth's, the last part of it, if no other
    image has it. Raises ValueError, naming the file, for images and classes that the truth has not,
    and for a file that was written by somebody else.
    """
    try:
        return _in_ids_of(path, content, truth)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not as `detengine predict` writes it: an entry, an image or a category of "
            f"it lacks something, or refers to what is not there ({excerpt(error)})"
        ) from error


def _in_ids_of(path: Path, content: Mapping[str, Any], truth: GroundTruth) -> list[dict[str, Any]]:
    image_ids = _image_ids(path, content["images"], truth)
    id_of_name = dict(zip(truth.categories.names, truth.categories.ids, strict=True))
    names = {each["id"]: each["name"] for each in content["categories"]}
    foreign = sorted({str(names.get(e.get("category_id"))) for e in content["annotations"]})
    if foreign := [name for name in foreign if name not in id_of_name]:
        raise ValueError(
            f"{path} has detections of {listed(foreign)}, but the ground truth's classes "
            f"are {listed(truth.categories.names)}"
        )
    return [
        {
            **entry,
            "image_id": image_ids[entry["image_id"]],
            "category_id": id_of_name[names[entry["category_id"]]],
        }
        for entry in content["annotations"]
    ]


def _image_ids(
    path: Path, images: Sequence[Mapping[str, Any]], truth: GroundTruth
) -> dict[int, int]:
    """The truth's id of each of the file's images."""
    full = {truth.file_name(index): index for index in range(len(truth))}
    by_last_part: dict[str, list[int]] = {}
    for name, at in full.items():
        by_last_part.setdefault(PurePosixPath(name).name, []).append(at)
    found: dict[int, int] = {}
    unknown: list[str] = []
    for image in images:
        name = str(image["file_name"])
        candidates = by_last_part.get(PurePosixPath(name).name, [])
        index = full.get(name) if len(candidates) != 1 else candidates[0]
        if index is None:
            unknown.append(name)
        else:
            found[image["id"]] = int(truth.image_ids[index])
    if unknown or len(set(found.values())) != len(found):
        twice = "; or several of them have the same name" if not unknown else ""
        raise ValueError(
            f"{path}: {len(unknown)} of {len(images)} images are none of the ground truth's "
            f"{len(truth)}, by their names: {listed(unknown)}{twice}. It has "
            f"{listed(full)}. Predict the data set's own images, or take those "
            "entries out."
        )
    return found

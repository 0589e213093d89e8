"""What is broken about a data set, and what is promised then: what all the lists of cases share.

A case takes a whole data set of a kind (`sound_inputs`), breaks one thing, and says what comes of
it: an error that names it, a warning that counts it, or nothing at all, because what is read is
what another, sound data set gives.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["coco", "keypoints", "lvis", "voc", "yolo", "folder", "polygons", "ids", "file"]
"""Which sound data set is broken. folder: a YOLO folder that is recognised; polygons and ids: the
two of Cityscapes; file: a run's YAML file with COCO data."""
Break = Callable[[Path], object]
"""Changes the data set in a folder."""


@dataclass(frozen=True)
class Refused:
    """An error. pattern: a regular expression that its message has, and the doctor's finding."""

    pattern: str


@dataclass(frozen=True)
class Counted:
    """It is read, and a warning, or the doctor's finding, says of how many things what."""

    pattern: str


@dataclass(frozen=True)
class Harmless:
    """It is read as another data set is. like: what breaks that one; None for the sound one.

    pixels: whether the pictures are equal, too.
    """

    like: Break | None = None
    pixels: bool = True


Promise = Refused | Counted | Harmless


@dataclass(frozen=True)
class Case:
    """One broken data set. overrides: of the configuration, KEY VALUE ...

    only_scoring: a training that scores nothing does not read what is broken.
    """

    name: str
    kind: Kind
    spoil: Break
    promise: Promise
    overrides: tuple[str, ...] = field(default=())
    only_scoring: bool = False


def change_json(*path: str | int, **values: Any) -> Break:
    """Sets keys of the object at this path of `a.json`; a value of `GONE` takes the key out."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / "a.json").read_bytes())
        place = content
        for key in path:
            place = place[key]
        for key, value in values.items():
            place.pop(key, None) if value is GONE else place.update({key: value})
        (folder / "a.json").write_text(json.dumps(content))

    return spoil


GONE = object()


def annotation(**values: Any) -> Break:
    """Changes the second annotation of a COCO file, whose id is 12."""
    return change_json("annotations", 1, **values)


def rewrite(name: str, change: Callable[[bytes], bytes]) -> Break:
    """Changes a file's bytes."""

    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return spoil


def write(name: str, content: str | bytes) -> Break:
    """Puts this in a file's place."""

    def spoil(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return spoil


def made(name: str, make: Callable[[], bytes]) -> Break:
    """As `write`, of what takes a while to be made."""
    return lambda folder: write(name, make())(folder)


def replaced(name: str, old: str | bytes, new: str | bytes) -> Break:
    """Puts one text in the place of another, wherever it stands in the file; it must be there."""

    def change(content: bytes) -> bytes:
        before, after = (each.encode() if isinstance(each, str) else each for each in (old, new))
        assert before in content
        return content.replace(before, after)

    return rewrite(name, change)


def both(*spoils: Break) -> Break:
    def spoil(folder: Path) -> None:
        for each in spoils:
            each(folder)

    return spoil

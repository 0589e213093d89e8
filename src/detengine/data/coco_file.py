"""COCO's json files as they are opened: images and categories as objects, annotations as text.

A large file's annotations are cut into chunks, and none of their numbers becomes a Python object
here.
"""

import codecs
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec
import orjson

from detengine.data.chunk_processes import Chunk
from detengine.data.coco_chunks import as_list
from detengine.data.lists import LONGEST_NAME
from detengine.untrusted.excerpt import excerpt, listed

_WORTH_CUTTING = 1 << 20
"""Bytes of the smallest file that is not read in one piece."""
_CHUNK_BYTES = 1 << 18
"""Of annotations that are read at a time: some four hundred of COCO's."""
_CHUNK = 500
"""Annotations that are read at a time where they have been told apart."""
_OPENING = re.compile(rb'"annotations"\s*:\s*\[')
_SEAM = re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*\{")
_MARK = "the annotations of detengine were here"
_LISTS = ("images", "annotations", "categories")
_LVIS = "neg_category_ids"
"""What an image's entry has in LVIS's format only."""
_PIECE = 1 << 24
"""Bytes that are looked at at a time."""

Entry = Mapping[str, Any]
Entries = Sequence[Entry]
Stamp = tuple[int, int, int]


class CutError(ValueError):
    """A chunk is no list of values: the file was cut in a wrong place, or is not JSON."""


class _Annotations(msgspec.Struct):
    annotations: list[msgspec.Raw]


@dataclass(frozen=True, eq=False)
class CocoFile:
    """A file's three lists. chunks: the annotations; stamp: of the file that was read."""

    path: Path
    images: Entries
    categories: Entries
    chunks: list[Chunk]
    stamp: Stamp

    def entries(self, chunk: Chunk) -> Entries:
        """A chunk as Python objects. Raises CutError if it was cut in a wrong place."""
        try:
            found = orjson.loads(as_list(chunk.text))
        except orjson.JSONDecodeError as error:
            raise CutError(f"{self.path}: its annotations are no JSON: {error}") from error
        _raise_if_no_objects(self.path, "annotations", found)
        return cast(Entries, found)

    @property
    def is_cut_by_guess(self) -> bool:
        """Whether a chunk may end inside of an annotation."""
        return any(chunk.start is not None for chunk in self.chunks)

    def cut_exactly(self) -> "CocoFile":
        """The same, cut after it was read: objects inside of annotations cannot mislead that.

        Raises ValueError, naming the file, if it is not JSON, or has a list twice.
        """
        data = cast(bytes, cast(memoryview, self.chunks[0].text).obj)
        found = _annotations_in(data)
        if found is None:
            return _read_whole(self.path, data, self.stamp)
        _raise_if_key_twice(self.path, data)
        chunks = [
            Chunk(b",".join(found[first : first + _CHUNK]))
            for first in range(0, len(found), _CHUNK)
        ]
        return replace(self, chunks=chunks)

    @contextmanager
    def opened(self) -> Iterator[BinaryIO | None]:
        """The file, as long as it is the one that was read; None if it has been replaced."""
        with self.path.open("rb") as file:
            yield file if _stamp(file) == self.stamp else None

    @cached_property
    def asked_for_size(self) -> bool:
        """Whether an image has no size here, so that its file is asked."""
        return not all("height" in entry and "width" in entry for entry in self.images)


def read_json(path: Path, name: str) -> CocoFile:
    """The file, whose images, annotations and categories are lists of objects; errors as above."""
    if not path.is_file():
        raise FileNotFoundError(
            f"data set {name!r} has no annotation file: {path} does not exist. "
            "Correct its ANNOTATIONS, or DATASETS.ROOT."
        )
    with path.open("rb") as file:
        stamp = _stamp(file)
        data = file.read()
    found = _cut_out(data)
    if found is None:
        return _read_whole(path, data, stamp)
    content, start, stop = found
    _raise_if_key_twice(path, b"".join((data[: start - 1], b"0", data[stop + 1 :])))
    for key in ("images", "categories"):
        _raise_if_no_objects(path, key, require(path, "the file", content, key))
    chunks = _chunks_between(data, start, stop)
    return CocoFile(path, content["images"], content["categories"], chunks, stamp)


def _cut_out(data: bytes) -> tuple[dict[str, Any], int, int] | None:
    """All but the annotations, and where those begin and end inside of their brackets.

    Found by a look at the text, and certain: what is left is read with a mark in the place of the
    list, which must then be the value of the outermost "annotations". A list's parts are read by
    themselves later, and where each of them is a list's inside, so is the whole. None for a file
    that is short, or otherwise than expected: it is read in one piece.
    """
    opening = _OPENING.search(data) if len(data) >= _WORTH_CUTTING else None
    if opening is None or not _is_utf8(data):
        return None
    start, following = opening.end(), data.rfind(b'"categories"', opening.end())
    stop = data.rfind(b"]", start, following if following >= 0 else len(data))
    if stop < 0:
        return None
    try:
        content = orjson.loads(b"".join((data[: start - 1], orjson.dumps(_MARK), data[stop + 1 :])))
    except orjson.JSONDecodeError:
        return None
    is_certain = isinstance(content, dict) and content.get("annotations") == _MARK
    return (content, start, stop) if is_certain else None


def _chunks_between(data: bytes, start: int, stop: int) -> list[Chunk]:
    """Parts of about _CHUNK_BYTES, each cut where one object seems to end and the next begins."""
    view, chunks = memoryview(data), []
    while start < stop:
        seam = _SEAM.search(data, min(start + _CHUNK_BYTES, stop), stop)
        end = seam.start() + 1 if seam else stop
        chunks.append(Chunk(view[start:end], start))
        start = seam.end() - 1 if seam else stop
    return chunks


def _read_whole(path: Path, data: bytes, stamp: Stamp) -> CocoFile:
    """The file as Python objects, which tells what is wrong with it."""
    data = data.removeprefix(codecs.BOM_UTF8)
    content = _loads(path, data)
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, but a COCO annotation file is an object "
            "with 'images', 'annotations' and 'categories'. Is it a result file?"
        )
    _raise_if_key_twice(path, data)
    for key in _LISTS:
        _raise_if_no_objects(path, key, require(path, "the file", content, key))
    found = _annotations_in(data)
    if found is None:
        raise ValueError(f"{path} is nested too deeply: is it a COCO annotation file?")
    chunks = [Chunk(b",".join(found))] if found else []
    return CocoFile(path, content["images"], content["categories"], chunks, stamp)


def _annotations_in(data: bytes) -> list[msgspec.Raw] | None:
    """The text of each annotation; None for what is no JSON, and for what is nested too deeply."""
    try:
        return msgspec.json.decode(data, type=_Annotations).annotations
    except (msgspec.MsgspecError, RecursionError):
        return None


def _raise_if_key_twice(path: Path, data: bytes) -> None:
    """Raise ValueError if one of the lists stands twice: all readers of JSON drop the first."""
    if all(data.count(b'"%s"' % key.encode()) < 2 for key in _LISTS):
        return
    try:  # of an object its keys; in the end, those of the outermost one
        keys = json.loads(data, object_pairs_hook=lambda pairs: [key for key, _ in pairs])
    except (ValueError, RecursionError):
        return  # which is said where it is read
    for key in _LISTS:
        if keys.count(key) > 1:
            raise ValueError(
                f"{path} has {key!r} {keys.count(key)} times, of which only the last would be "
                "read. Was it put together by hand? Make one list of them."
            )


def raise_if_no_json(path: Path, data: bytes) -> None:
    """Raise ValueError, naming the file, if its content is no JSON, or was cut off."""
    _loads(path, data)


def _loads(path: Path, data: bytes) -> Any:
    """Raises ValueError, naming the file. A byte order mark is none of its content."""
    try:
        return orjson.loads(data.removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError as error:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ValueError(f"{path} is UTF-16, but JSON is UTF-8. Save it as UTF-8.") from error
        raise ValueError(_not_json(path, len(data), error)) from error


def _is_utf8(data: bytes) -> bool:
    """A large file is not decoded in one piece."""
    if data.isascii():
        return True
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(data), _PIECE):
            decoder.decode(data[start : start + _PIECE], final=start + _PIECE >= len(data))
    except UnicodeDecodeError:
        return False
    return True


def _not_json(path: Path, length: int, error: Exception) -> str:
    return (
        f"{path} is no complete JSON file ({length} bytes): {error}. Was its download "
        "or its writing cut off? (NaN and Infinity are no JSON, either.)"
    )


def _raise_if_no_objects(path: Path, key: str, entries: object) -> None:
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise ValueError(f"{path}: {key!r} must be a list of objects, as in COCO's format")


def _stamp(file: BinaryIO) -> Stamp:
    """Which file it is, and of when."""
    found = os.fstat(file.fileno())
    return found.st_ino, found.st_size, found.st_mtime_ns


def require(path: Path, where: str, entry: Mapping[str, Any], key: str) -> Any:
    if key not in entry:
        lvis = " Is it LVIS's? Then its FORMAT is lvis." if _LVIS in entry else ""
        raise ValueError(
            f"{path}: {where} has no {key!r}, which COCO's format asks for; it has "
            f"{listed(sorted(entry)) or 'nothing'}.{lvis}"
        )
    return entry[key]


def read_name(path: Path, where: str, entry: Mapping[str, Any], key: str) -> str:
    """Text, or a number in its place. Raises ValueError for what can be no name."""
    value = require(path, where, entry, key)
    name = str(value) if type(value) in (str, int) else ""
    if not name or len(name) > LONGEST_NAME or "\0" in name:
        raise ValueError(f"{path}: {key!r} of {where} must be a name, but is {excerpt(value)}")
    return name


def read_integer(path: Path, where: str, entry: Mapping[str, Any], key: str) -> int:
    value = require(path, where, entry, key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{path}: {key!r} of {where} must be an integer, but is {excerpt(value)}")
    if abs(value) >= 1 << 63:
        raise ValueError(f"{path}: {key!r} of {where} is {value}, which 64 bits do not hold")
    return value

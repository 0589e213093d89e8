"""One file that holds a `GroundTruth`: a label, then its columns as they are in memory.

Bytes: the magic, the lengths of head and columns, the CRC-32 of all the rest; the head, JSON, that
says which column is what and where; the columns, each at a multiple of 64. Opening one makes
tensors, texts and numbers of it and nothing else, after the sum of all bytes was found right.
"""

import os
import struct
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import torch
from torch import Tensor

from detengine.structures.categories import Categories
from detengine.structures.ground_truth import (
    FederatedLabels,
    GroundTruth,
    IgnoredRegions,
    PackedBytes,
    PackedIntegers,
)

_MAGIC = b"detengine packed"
_PREFIX = struct.Struct("<16sQQL")
_LENGTHS = struct.Struct("<QQ")
_ALIGNMENT = 64
_DTYPES = {str(dtype): dtype for dtype in (torch.int64, torch.float64, torch.bool, torch.uint8)}
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        Categories,
        FederatedLabels,
        GroundTruth,
        IgnoredRegions,
        PackedBytes,
        PackedIntegers,
    )
}


class NotPackedError(ValueError):
    """A file is damaged, cut off, or was never a packed one."""


def write_packed(path: Path, truth: GroundTruth, label: dict[str, Any]) -> None:
    """Write it, so that there is the old file or the new one. Raises OSError.

    After a power cut it may be there in part, which its checksum tells: nobody waits for the disk.
    label: what `map_packed` is asked about, of plain types.
    """
    columns: list[Tensor] = []
    content = _described(truth, columns)
    starts, end = [], 0
    for column in columns:
        starts.append(end)
        end += -(-column.numel() * column.element_size() // _ALIGNMENT) * _ALIGNMENT
    places = [
        [str(column.dtype), list(column.shape), start]
        for column, start in zip(columns, starts, strict=True)
    ]
    order = sys.byteorder
    head = orjson.dumps({"label": label, "order": order, "content": content, "columns": places})
    head += b" " * (-(_PREFIX.size + len(head)) % _ALIGNMENT)
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("w+b") as file:
            _write(file, head, columns, end)
        aside.replace(path)
    except OSError:
        with suppress(OSError):
            aside.unlink()
        raise


def _write(file: BinaryIO, head: bytes, columns: list[Tensor], end: int) -> None:
    file.write(bytes(_PREFIX.size) + head)
    checksum = zlib.crc32(head, zlib.crc32(_LENGTHS.pack(len(head), end)))
    for column in columns:
        data = column.contiguous().view(-1).view(torch.uint8).numpy().data
        padding = bytes(-len(data) % _ALIGNMENT)
        for part in (data, padding):
            file.write(part)
            checksum = zlib.crc32(part, checksum)
    file.seek(0)
    file.write(_PREFIX.pack(_MAGIC, len(head), end, checksum))


def map_packed(path: Path, is_wanted: Callable[[dict[str, Any]], bool]) -> GroundTruth | None:
    """The ground truth in the file, or None if its label is not wanted.

    Its tensors are the file's pages, shared by all processes that map it; one that a process writes
    to becomes its own, and the file stays as it is. It stays valid when the file is replaced.
    Raises NotPackedError for a file that is not as it was written, and OSError.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(_PREFIX.size)
        if len(prefix) < _PREFIX.size:
            raise NotPackedError(f"{path} is cut off after {length} bytes")
        magic, head_length, columns_length, checksum = _PREFIX.unpack(prefix)
        if magic != _MAGIC or length != _PREFIX.size + head_length + columns_length:
            raise NotPackedError(f"{path} is damaged: {length} bytes are not what it says")
    try:
        data = torch.from_file(str(path), shared=False, size=length, dtype=torch.uint8)
    except RuntimeError as error:
        raise OSError(str(error)) from error
    stop = _PREFIX.size + head_length
    lengths = _LENGTHS.pack(head_length, columns_length)
    if zlib.crc32(data[_PREFIX.size :].numpy().data, zlib.crc32(lengths)) != checksum:
        raise NotPackedError(f"{path} is damaged: its checksum is not its content's")
    try:
        return _read_content(data[_PREFIX.size : stop], data[stop:], is_wanted)
    except MemoryError:
        raise
    except Exception as error:  # its sum is right, and so it was made by somebody else
        raise NotPackedError(f"{path} is not as it is written here: {error!r:.200}") from error


def _read_content(
    head_bytes: Tensor, data: Tensor, is_wanted: Callable[[dict[str, Any]], bool]
) -> GroundTruth | None:
    head = orjson.loads(head_bytes.numpy().tobytes())
    if head["order"] != sys.byteorder or not is_wanted(head["label"]):
        return None
    columns = [_column(data, *place) for place in head["columns"]]
    truth = _built(head["content"], columns)
    if not isinstance(truth, GroundTruth):
        raise ValueError(f"it holds a {type(truth).__name__}")
    return truth


def _column(data: Tensor, dtype: str, shape: list[int], start: int) -> Tensor:
    kind = _DTYPES[dtype]
    bytes_of_it = torch.Size(shape).numel() * kind.itemsize
    return data[start : start + bytes_of_it].view(kind).view(shape)


def _described(value: Any, columns: list[Tensor]) -> Any:
    """What `_built` makes the value of. Its tensors are appended to the columns."""
    if isinstance(value, Tensor):
        columns.append(value)
        return {"column": len(columns) - 1}
    if is_dataclass(value):
        parts = {
            each.name: _described(getattr(value, each.name), columns) for each in fields(value)
        }
        return {"kind": type(value).__name__, "fields": parts}
    if isinstance(value, tuple):
        return [_described(each, columns) for each in value]
    return value


def _built(value: Any, columns: list[Tensor]) -> Any:
    if isinstance(value, list):
        return tuple(_built(each, columns) for each in value)
    if not isinstance(value, dict):
        return value
    if "column" in value:
        return columns[value["column"]]
    parts = {name: _built(part, columns) for name, part in value["fields"].items()}
    return _KINDS[value["kind"]](**parts)

"""Packed annotations: their checksum is right, and what they say of themselves need not be."""

import struct
import tempfile
import zlib
from pathlib import Path
from random import Random

from archives import mutated_bytes
from driver import Target, fuzz, instrumented, outcome
from mutation import mutated_json

with instrumented():
    from detengine.data.packed_file import map_packed, write_packed
    from detengine.structures.ground_truth import GroundTruth

from small_truth import small_truth

NAMES = (
    "label", "order", "content", "columns", "kind", "fields", "column", "names", "ids", "data",
    "offsets", "GroundTruth", "PackedBytes",
)  # fmt: skip
PREFIX = struct.Struct("<16sQQL")
LENGTHS = struct.Struct("<QQ")


def seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.packed")
        write_packed(path, small_truth(), {"reader": [1, "0"], "stamps": {}})
        return [path.read_bytes()]


def check(data: bytes, folder: Path) -> None:
    path = folder / "a.packed"
    path.write_bytes(data)
    for is_wanted in (lambda label: True, lambda label: label["stamps"] == {}):
        truth = outcome(lambda: map_packed(path, is_wanted), path.name)  # noqa: B023
        assert truth is None or isinstance(truth, GroundTruth)


def mutate(data: bytes, generator: Random) -> bytes:
    if len(data) < PREFIX.size or generator.random() < 0.1:
        return mutated_bytes(data, generator)
    magic, head_length, _, _ = PREFIX.unpack_from(data)
    stop = min(PREFIX.size + head_length, len(data))
    head, columns = data[PREFIX.size : stop].rstrip(), data[stop:]
    if generator.random() < 0.9:
        head = mutated_json(head, generator, NAMES)
    else:
        columns = mutated_bytes(columns, generator)
    head += b" " * (-(PREFIX.size + len(head)) % 64)
    lengths = LENGTHS.pack(len(head), len(columns))
    checksum = zlib.crc32(columns, zlib.crc32(head, zlib.crc32(lengths)))
    return PREFIX.pack(magic, len(head), len(columns), checksum) + head + columns


TARGET = Target("packed", seeds, check, mutate)

if __name__ == "__main__":
    fuzz(TARGET)

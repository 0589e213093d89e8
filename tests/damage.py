"""Files that were cut off, or in which a bit is another."""

import random
from collections.abc import Iterator

PARTS = 20
"""A file is cut off at each such part of its length."""


def flipped(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def bits_of(content: bytes, count: int) -> list[int]:
    """So many of a content's bits, or all."""
    bits = range(8 * len(content))
    return random.Random(0).sample(bits, min(count, len(bits)))


def truncations(content: bytes) -> Iterator[bytes]:
    """The content up to each part of its length, and without its last byte."""
    for length in sorted({len(content) * part // PARTS for part in range(PARTS)}):
        yield content[:length]
    yield content[:-1]


def flips(content: bytes, count: int) -> Iterator[bytes]:
    for bit in bits_of(content, count):
        yield flipped(content, bit)

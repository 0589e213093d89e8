"""Run lengths: decoded one and many at a time, encoded, united; as maskApi.c says and does.

An input is strings of run lengths in lines, or else a list of polygons in JSON.
"""

import json
import math
import warnings
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import orjson
from driver import Target, fuzz, instrumented, outcome
from mutation import mutated_json
from pycocotools import mask as oracle

with instrumented():
    from detengine.data.segmentation import encode_segmentation
    from detengine.structures.rle import decode_counts, encode_counts
    from detengine.structures.rle_decoding import decode_many
    from detengine.structures.rle_union import union_of

MOST_PIXELS = 1 << 16
"""Of a mask that is drawn, by the reference too."""


def seeds() -> list[bytes]:
    runs = ([0], [3, 4, 5], [20, 30, 70], [0, 120], [5, 1, 9, 1, 9, 1, 94], [2**32 - 1, 1])
    strings = [encode_counts(np.array(each)) for each in runs]
    polygon = [1.5, 1, 9, 1, 9, 8]
    square = [0, 0, 3, 0, 3, 3, 0, 3]
    drawn = ([polygon], [polygon, square], {"size": [12, 10], "counts": [20, 100]})
    return [
        *strings,
        b"\n".join(strings),
        b"\n".join([strings[1]] * 3),
        *(json.dumps(each).encode() for each in drawn),
        json.dumps({"size": [12, 10], "counts": "d0n0V2"}).encode(),
    ]


def check(data: bytes, folder: Path) -> None:
    warnings.filterwarnings("ignore", "__array__ implementation")  # pycocotools, of NumPy 2
    if data[:1] in (b"[", b"{"):
        _check_segmentation(data)
    else:
        _check_strings(data.split(b"\n"))


def _check_strings(strings: list[bytes]) -> None:
    decoded = [_decoded(each) for each in strings]
    expected = [runs_of(each) for each in strings]
    assert decoded == expected, f"maskApi.c reads {expected}, we {decoded}"
    joined = np.frombuffer(b"".join(strings), dtype=np.uint8)
    bounds = np.cumsum([0, *map(len, strings)])
    whole = [each for each in decoded if each is not None]
    try:
        runs, offsets = decode_many(joined, bounds)
    except ValueError:
        assert len(whole) < len(strings), "many are refused, of which each is read"
        return
    assert len(whole) == len(strings), "many are read, of which one is refused"
    assert np.array_equal(runs, np.concatenate([[], *whole]).astype(np.int64))
    assert offsets.tolist() == np.cumsum([0, *map(len, whole)]).tolist()
    for each in whole:
        assert decode_counts(encode_counts(np.array(each, dtype=np.int64))).tolist() == each
    _check_masks([each for each in whole if sum(each) == sum(whole[0])][:9])


def _check_masks(masks: list[list[int]]) -> None:
    """Drawn, encoded and united as by the reference. masks: runs, of one number of pixels."""
    pixels = sum(masks[0]) if masks else 0
    if not 0 < pixels <= MOST_PIXELS:
        return
    rles = [{"size": [pixels, 1], "counts": encode_counts(np.array(each))} for each in masks]
    dense = [np.repeat(np.arange(len(each)) % 2, each).astype(np.uint8) for each in masks]
    for rle, bits, runs in zip(rles, dense, masks, strict=True):
        assert np.array_equal(oracle.decode(rle)[:, 0], bits)
        if 0 not in runs[1:]:
            again = oracle.encode(np.asfortranarray(bits[:, None]))
            assert again["counts"] == rle["counts"], "pycocotools writes something else"
    union = union_of(rles)  # type: ignore[arg-type]
    assert np.array_equal(oracle.decode(union)[:, 0], np.max(dense, axis=0))


def _decoded(string: bytes) -> list[int] | None:
    try:
        return list(map(int, decode_counts(string)))
    except ValueError:
        return None


def runs_of(string: bytes) -> list[int] | None:
    """rleFrString's loop with numbers of any size; None where that overflows or runs out."""
    runs: list[int] = []
    number = shift = 0
    for byte in string:
        code = byte - 48
        if not 0 <= code < 64 or shift >= 35:
            return None
        number |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:
            continue
        if code & 0x10:
            number -= 1 << shift
        if len(runs) > 2:
            number += runs[-2]
        runs.append(number)
        number = shift = 0
    return runs if not shift and all(0 <= each < 1 << 32 for each in runs) else None


def _check_segmentation(data: bytes) -> None:
    try:
        segmentation = orjson.loads(data)
    except ValueError:
        return
    if not segmentation:
        return
    mask = outcome(lambda: encode_segmentation(segmentation, (12, 10)), "")
    if mask is None:
        return
    assert int(decode_counts(mask).sum()) == 120
    counts = segmentation["counts"] if isinstance(segmentation, dict) else []
    assert isinstance(counts, str) or all(each == int(each) for each in counts), "a part of a pixel"
    polygons = segmentation if isinstance(segmentation, list) else []
    if polygons and all(_is_drawn_alike(each) for each in polygons):
        drawn = oracle.merge(oracle.frPyObjects(polygons, 12, 10))
        assert drawn["counts"] == mask, "pycocotools draws something else"


def _is_drawn_alike(polygon: list[Any]) -> bool:
    """Whether pycocotools is defined: it counts in C's int, and in fifths of a pixel."""
    return all(math.isfinite(each) and abs(each) < 1e4 for each in polygon)


def mutate(data: bytes, generator: Random) -> bytes:
    if data[:1] in (b"[", b"{"):
        return mutated_json(data, generator, ("size", "counts"))
    codes = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 5))):
        at = generator.randrange(len(codes) + 1)
        more = bytes(generator.choices(b"0123?@OPQ_`ao~\n\xff/", k=generator.choice((1, 1, 2, 8))))
        codes[at : at + generator.choice((0, 0, 1, 3))] = more
    return bytes(codes)


TARGET = Target("rle", seeds, check, mutate)

if __name__ == "__main__":
    fuzz(TARGET)

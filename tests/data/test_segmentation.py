import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as oracle

from detengine.data.segmentation import encode_segmentation, is_numbers
from detengine.structures.rle import decode_counts

SIZE = (37, 53)
coordinate = st.floats(-20, 80, allow_nan=False).map(lambda value: round(value, 2))
polygon = st.integers(3, 9).flatmap(lambda n: st.lists(coordinate, min_size=2 * n, max_size=2 * n))


@given(st.lists(polygon, min_size=1, max_size=3))
def test_polygons_become_what_pycocotools_makes_of_them(polygons: list[list[float]]) -> None:
    expected = oracle.merge(oracle.frPyObjects(polygons, *SIZE))
    assert encode_segmentation(polygons, SIZE) == expected["counts"]


@pytest.mark.parametrize("seed", range(4))
def test_all_three_kinds_give_the_same_string(seed: int) -> None:
    mask = np.asfortranarray(np.random.default_rng(seed).integers(0, 2, SIZE, dtype=np.uint8))
    compressed = oracle.encode(mask)["counts"]
    uncompressed = decode_counts(compressed).tolist()
    for counts in (compressed.decode(), uncompressed):
        assert encode_segmentation({"size": list(SIZE), "counts": counts}, SIZE) == compressed


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ("abc", "neither polygons .* nor run lengths"),
        ({"counts": [1]}, "neither polygons .* nor run lengths"),
        ([[1, 2, 3, 4]], "at least three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "at least three points"),
        ([1, 2, 3, 4, 5, 6], "at least three points, but this is 1"),
        ([[1, 2, 3, 4, 5, math.inf]], "not finite"),
        ({"size": [53, 37], "counts": [1961]}, r"image of \[53, 37\].*gives its image \[37, 53\]"),
        ({"size": [37, 53], "counts": [1960]}, "cover 1960 pixels, .* has 1961"),
        ({"size": [37, 53], "counts": [-1, 1962]}, "run length must be"),
        (
            {"size": [37, 53], "counts": [2**63, 1]},
            "run length must be .* one is 9223372036854775808",
        ),
        ({"size": 37, "counts": "0"}, "its run lengths are of an image of 37"),
        ({"size": [37, 53], "counts": {}}, "neither a string nor integers"),
        ({"size": [37, 53], "counts": "not rle!"}, "foreign|belong"),
    ],
)
def test_what_is_no_mask_is_refused(segmentation: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_segmentation(segmentation, SIZE)


def test_booleans_strings_and_nothing_are_no_numbers() -> None:
    assert is_numbers([1, 2.5])
    assert not any(map(is_numbers, ([True], ["1"], [None], (1,), None)))

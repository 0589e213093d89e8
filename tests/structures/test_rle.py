import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from detengine.structures.rle import decode_counts, encode_counts


@st.composite
def _masks(draw):
    """A mask of a few random rectangles, so that runs of all lengths come up."""
    height, width = draw(st.integers(1, 200)), draw(st.integers(1, 200))
    mask = np.zeros((height, width), dtype=np.uint8, order="F")
    for _ in range(draw(st.integers(0, 4))):
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        mask[y : draw(st.integers(y, height)), x : draw(st.integers(x, width))] ^= 1
    return mask


def _runs(mask):
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(pixels, prepend=np.uint8(0)))
    return np.diff(np.concatenate([[0], changes, [len(pixels)]]))


@settings(max_examples=60, deadline=None)
@given(_masks())
def test_strings_and_runs_are_those_of_pycocotools(mask):
    string = coco_mask.encode(mask)["counts"]
    assert encode_counts(_runs(mask)) == string
    assert np.array_equal(decode_counts(string), _runs(mask))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), max_size=20))
@example([0, 2**32 - 1, 0, 2**32 - 1, 0, 0, 0])
@example([15, 16, 17, 31, 33, 512, 511, 16384])
def test_decoding_undoes_encoding_for_any_runs(counts):
    decoded = decode_counts(encode_counts(np.array(counts, dtype=np.int64)))
    assert decoded.dtype == np.int64
    assert decoded.tolist() == counts


def test_the_empty_string_has_no_runs():
    assert len(decode_counts(b"")) == 0
    assert encode_counts(np.empty(0, dtype=np.int64)) == b""


@pytest.mark.parametrize(
    ("string", "message"),
    [
        (b"04 4", "the byte b' ' at position 2 of 4"),
        ("0\u00e94".encode(), "the byte b'\\\\xc3' at position 1"),
        (b"04P", "ends within a number: is it cut off"),
        (b"oooooooo0", "more than 32 bits"),
        (b"5O", "has a run of -1 pixels"),
        (b"PPPPPP4", "has a run of 4294967296 pixels"),
    ],
)
def test_a_damaged_string_says_what_is_wrong(string, message):
    with pytest.raises(ValueError, match=message):
        decode_counts(string)


def test_runs_that_do_not_fit_are_refused():
    for counts in ([3, -1], [1 << 32]):
        with pytest.raises(ValueError, match="a run length must be 0 to"):
            encode_counts(np.array(counts))

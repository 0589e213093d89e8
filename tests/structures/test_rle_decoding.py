import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detengine.structures.rle import decode_counts, encode_counts
from detengine.structures.rle_decoding import decode_many

RUNS = st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 40), max_size=12)


def _joined(strings: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    return np.frombuffer(b"".join(strings), np.uint8), np.cumsum([0, *map(len, strings)])


@given(st.lists(RUNS, max_size=8))
def test_many_strings_decode_to_what_each_of_them_does(masks: list[list[int]]) -> None:
    strings = [encode_counts(np.array(runs, dtype=np.int64)) for runs in masks]
    runs, offsets = decode_many(*_joined(strings))
    assert runs.dtype == offsets.dtype == np.int64
    assert offsets.tolist() == np.cumsum([0, *map(len, masks)]).tolist()
    assert runs.tolist() == [run for each in masks for run in each]


@pytest.mark.parametrize(
    "damaged", [b"5 5", b"5P", b"P", b"\xff", b"PPPPPPPP0", b"51O", b"0000I"], ids=repr
)
@pytest.mark.parametrize("at", range(3))
def test_a_damaged_string_is_refused_as_it_is_alone(damaged: bytes, at: int) -> None:
    good = encode_counts(np.array([3, 200, 5]))
    strings = [good, good]
    strings.insert(at, damaged)
    with pytest.raises(ValueError, match="a compressed RLE") as alone:
        decode_counts(damaged)
    with pytest.raises(ValueError, match="a compressed RLE") as together:
        decode_many(*_joined(strings))
    assert str(together.value) == str(alone.value)

import io
import pickle
from collections import OrderedDict
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detengine.untrusted import pickles
from detengine.untrusted.pickles import MOST_LEVELS, UnfitPickleError, raise_if_unfit

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
NESTED = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(st.text(), inner).map(OrderedDict)
        | st.frozensets(st.integers())
        | inner.map(lambda each: [each, each, (each,)])  # one object in several places
    ),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(NESTED, st.integers(0, pickle.HIGHEST_PROTOCOL), st.binary(max_size=5))
def test_what_is_used_is_fit_and_read_to_its_end(data: Any, protocol: int, rest: bytes) -> None:
    content = pickle.dumps(data, protocol)
    file = io.BytesIO(content + rest)
    raise_if_unfit(file, len(content))
    assert file.read() == rest


@settings(max_examples=100, deadline=None)
@given(NESTED, st.integers(0, pickle.HIGHEST_PROTOCOL), st.data())
def test_a_mutated_pickle_is_fit_or_is_an_error(data: Any, protocol: int, draw: Any) -> None:
    content = bytearray(pickle.dumps(data, protocol))
    for _ in range(draw.draw(st.integers(1, 4))):
        content[draw.draw(st.integers(0, len(content) - 1))] = draw.draw(st.integers(0, 255))
    with suppress(ValueError):
        raise_if_unfit(io.BytesIO(content), len(content))


def test_items_are_counted_as_often_as_they_are_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = [1, 2]
    content = pickle.dumps([inner, inner, (inner, 3)])  # 1 + 3 + 3 + (1 + 3 + 1)
    monkeypatch.setattr(pickles, "MOST_ITEMS", 12)
    raise_if_unfit(io.BytesIO(content), len(content))
    monkeypatch.setattr(pickles, "MOST_ITEMS", 11)
    with pytest.raises(UnfitPickleError, match="are over 11"):
        raise_if_unfit(io.BytesIO(content), len(content))


def test_what_is_nested_too_deep_or_in_itself_is_unfit() -> None:
    def nested(levels: int) -> bytes:
        return b"\x80\x02)" + b"\x85" * levels + b"."

    raise_if_unfit(io.BytesIO(nested(MOST_LEVELS)), 2**10)
    with pytest.raises(UnfitPickleError, match="over 200 levels"):
        raise_if_unfit(io.BytesIO(nested(MOST_LEVELS + 1)), 2**10)
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(UnfitPickleError, match="contains itself"):
        raise_if_unfit(io.BytesIO(pickle.dumps(ring)), 2**10)


def test_what_is_put_together_from_the_outside_in_is_counted_as_well() -> None:
    """Each list is filled when it is in the one before it already."""
    numbers = [bytes([number]) for number in range(61)]
    lists = b"".join(b"]q" + number for number in numbers)
    pairs = pairwise(numbers)
    fill = b"".join(b"h" + outer + (b"h" + inner + b"a") * 2 + b"0" for outer, inner in pairs)
    with pytest.raises(UnfitPickleError, match=r"are over 10,000,000"):
        raise_if_unfit(io.BytesIO(b"\x80\x02" + lists + fill + b"."), 2**10)

from typing import Any

import pytest

from detengine.untrusted.excerpt import excerpt, listed


@pytest.mark.parametrize("value", [3, "a", [1, 2], {"a": None}, "x" * 78])
def test_what_is_short_is_shown_as_it_is(value: object) -> None:
    assert excerpt(value) == repr(value)


def test_what_is_long_ends_with_dots() -> None:
    assert excerpt("x" * 79) == "'" + "x" * 76 + "..."
    assert excerpt(list(range(10_000))).endswith("20, 21...")


def test_what_is_nested_too_deeply_is_said_to_be() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    assert excerpt(value) == "a list that is too large or too deep to be shown"
    while value:  # Python would take it apart by recursion
        value = value.pop()


def test_an_integer_that_python_does_not_write_is_said_to_be() -> None:
    assert excerpt([10**5000]) == "a list that is too large or too deep to be shown"


def test_ten_of_many_are_listed() -> None:
    assert listed(["a", 3, None]) == "a, 3, None"
    assert listed([]) == ""
    assert listed(range(11)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."
    assert listed(["x" * 3000]) == "x" * 77 + "..."

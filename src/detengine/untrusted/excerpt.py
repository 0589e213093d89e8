"""Values in messages: what somebody's file holds may be of any length, and nested in any depth."""

from collections.abc import Iterable
from itertools import islice

_LONGEST = 80
_MOST = 10


def excerpt(value: object) -> str:
    """The value as Python writes it, in 80 characters at most."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # ValueError: an integer of more than 4300 digits
        return f"a {type(value).__name__} that is too large or too deep to be shown"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def listed(values: Iterable[object]) -> str:
    """The first ten of the values, with commas, as text or as Python writes it."""
    first = [each if isinstance(each, str) else excerpt(each) for each in islice(values, _MOST + 1)]
    shortened = [each if len(each) <= _LONGEST else each[: _LONGEST - 3] + "..." for each in first]
    return ", ".join(shortened[:_MOST]) + (", ..." if len(first) > _MOST else "")

from typing import Any

import pytest
from pydantic import ValidationError

from detengine.config.field_types import (
    Count,
    Fraction,
    Maybe,
    MaybeText,
    Number,
    Pair,
    Section,
    Several,
    Switch,
    value_of_text,
)


class Example(Section):
    COUNT: Count = 0
    NUMBER: Number = 0.0
    FRACTION: Fraction = 0.0
    SWITCH: Switch = False
    TEXT: str = ""
    MAYBE_TEXT: MaybeText = None
    NUMBERS: Several[Number] = ()
    NAMES: Several[str] = ()
    PAIR: Maybe[Pair[Count]] = None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(60000, 80000)", (60000, 80000)),
        ("(1500,)", (1500,)),
        ("[0.25, 0.125]", (0.25, 0.125)),
        ("[a, b]", ("a", "b")),
        ("1e-3", 0.001),
        ("True", True),
        ("true", True),
        ("None", None),
        ("null", None),
        ("{a: 1}", {"a": 1}),
        ("just words", "just words"),
        ("[unclosed", "[unclosed"),
    ],
)
def test_text_stands_for_a_python_literal_or_else_for_yaml(text: str, value: Any) -> None:
    assert value_of_text(text) == value


@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("COUNT", "12", 12),
        ("NUMBER", 3, 3.0),
        ("NUMBER", "1e-3", 0.001),
        ("SWITCH", "False", False),
        ("TEXT", "2024", "2024"),
        ("TEXT", "(a, b)", "(a, b)"),
        ("MAYBE_TEXT", "None", None),
        ("MAYBE_TEXT", "7", "7"),
        ("NUMBERS", [1, "1e-3"], (1.0, 0.001)),
        ("NAMES", "('007', 'b')", ("007", "b")),
        ("PAIR", "None", None),
        ("PAIR", "[3, 4]", (3, 4)),
    ],
)
def test_text_and_lists_are_read_as_the_key_wants_them(key: str, given: Any, value: Any) -> None:
    read = getattr(Example.model_validate({key: given}), key)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("COUNT", True),
        ("COUNT", 1.0),
        ("COUNT", -1),
        ("COUNT", "many"),
        ("NUMBER", False),
        ("NUMBER", float("nan")),
        ("NUMBER", float("inf")),
        ("FRACTION", 1.1),
        ("FRACTION", float("nan")),
        ("SWITCH", 1),
        ("TEXT", 2024),
        ("NUMBERS", 3),
        ("NAMES", "a"),
        ("NAMES", [1]),
        ("PAIR", [3, 4, 5]),
    ],
)
def test_a_value_of_another_type_or_range_is_refused(key: str, given: Any) -> None:
    with pytest.raises(ValidationError):
        Example.model_validate({key: given})


def test_a_section_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Example().COUNT = 3  # type: ignore[misc]

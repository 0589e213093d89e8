import math

import pytest

from detengine.data.decimals import read_number


@pytest.mark.parametrize("text", ["0", "-1.5", "+2", ".5", "3.", "1e3", "1E-2", "007"])
def test_decimal_numbers_are_read_as_python_reads_them(text: str) -> None:
    assert read_number(text) == float(text)


def test_a_number_beyond_64_bits_is_infinite() -> None:
    assert read_number("1e999") == math.inf


@pytest.mark.parametrize(
    "text", ["", ".", "1_000", "0x10", "nan", "inf", "1,5", "1 2", " 1", "1\n", "\u0661", "1e"]
)
def test_all_else_is_none(text: str) -> None:
    assert math.isnan(read_number(text))

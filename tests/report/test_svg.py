"""Charts as markup: well-formed, escaped, with gaps where there is no number."""

import math
from xml.etree import ElementTree

import pytest

from detengine.report.numbers import count, duration, number, percent
from detengine.report.svg import Chart, Line, ticks

EVIL = '"><img src=x onerror=alert(1)><script>alert(1)</script>&'


def chart(line: Line, title: str = "loss") -> Chart:
    return Chart(title, "a loss", [line], (0.0, 100.0), (0.0, 1.0), "iteration")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.5, 1.0]),
        (0.0, 600.0, [0.0, 200.0, 400.0, 600.0]),
        (0.0, 0.0021, [0.0, 0.001, 0.002]),
        (-1.0, 1.0, [-1.0, -0.5, 0.0, 0.5, 1.0]),
        (3.0, 3.0, [3.0]),
    ],
)
def test_ticks_are_round_numbers_inside_the_range(
    low: float, high: float, expected: list[float]
) -> None:
    assert ticks(low, high, most=4) == expected


@pytest.mark.parametrize("name", [EVIL, "loss"])
def test_a_chart_is_well_formed_whatever_its_names_are(name: str) -> None:
    line = Line(name, [0, 50, 100], [0.1, 0.2, 0.3], texts=["1", EVIL, "3"], dots=True)
    markup = chart(line, title=name).svg()
    root = ElementTree.fromstring(markup)
    assert {element.tag for element in root.iter()} <= {"svg", "path", "text", "circle"}
    assert root.attrib["aria-label"] == f"{name}. a loss"
    assert [e.attrib["data-name"] for e in root.iter("path") if "data-name" in e.attrib] == [name]


def test_a_line_has_a_gap_where_a_value_is_not_finite() -> None:
    line = Line("loss", [0, 25, 50, 75, 100], [0.1, 0.2, math.nan, 0.4, math.inf])
    markup = chart(line).svg()
    assert "nan" not in markup
    assert "inf" not in markup
    (path,) = [
        e for e in ElementTree.fromstring(markup).iter("path") if "line" in e.attrib["class"]
    ]
    assert path.attrib["d"].count("M") == 2


def test_points_within_a_level_stretch_are_left_out() -> None:
    line = Line("loss", list(range(101)), [0.5] * 50 + [0.7] * 51)
    (path,) = [
        e
        for e in ElementTree.fromstring(chart(line).svg()).iter("path")
        if "line" in e.attrib["class"]
    ]
    assert path.attrib["d"].count("L") == 3


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (1.23456, "1.235"), (2e-5, "2.0e-5"), (math.nan, "n/a")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.96, "1 min"),
        (200, "3 min 20 s"),
        (18720, "5 h 12 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(1500, "1,500"), (90000, "90k"), (2.5e6, "2.5M")])
def test_iterations_are_counted_in_few_letters(value: float, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "50.0"), (-0.002, "-0.2"), (-1.0, "n/a"), (math.nan, "n/a")]
)
def test_a_percentage_is_that_of_an_evaluations_tables(value: float, text: str) -> None:
    assert percent(value) == text

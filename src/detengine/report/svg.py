"""Line charts as SVG in a page: small, sharp, in the page's own colours and type.

What is drawn has the classes of the page's style sheet and no colour of its own, so that a chart
follows the reader's theme; numbers that are pointed at stand in the markup, as text. Written by
hand: a chart is 2 to 20 kB, and takes about a millisecond.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 380, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 36

_MOST_TEXTS = 100

Range = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A named series of points in a chart.

    style: classes of the style sheet. dots: mark each point. texts: what is shown of each point
    where the chart is pointed at; empty for nothing, as of a line that another one smooths.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "c0"
    dots: bool = False
    texts: Sequence[str] = ()


@dataclass(frozen=True)
class Chart:
    """Lines over two linear axes. What lies beyond the ranges is cut off.

    title: in the page, above; description: for who cannot see it. x_text, y_text: of a tick.
    marks: places on the x axis, each with a word. diagonal: also draw the line from the lower left
    corner to 1 at the end of the x axis. whole_x: name whole numbers only on the x axis.
    """

    title: str
    description: str
    lines: Sequence[Line]
    x_range: Range
    y_range: Range
    x_label: str
    y_label: str = ""
    x_text: Callable[[float], str] = lambda value: f"{value:g}"
    y_text: Callable[[float], str] = lambda value: f"{value:g}"
    marks: Sequence[tuple[float, str]] = ()
    diagonal: bool = False
    whole_x: bool = False

    @property
    def has_raw(self) -> bool:
        """Whether it shows what was logged behind what is smoothed."""
        return any("raw" in line.style for line in self.lines)

    @property
    def legend(self) -> list[Line]:
        """The lines to be named beside it: where there are several."""
        named = [line for line in self.lines if line.name]
        return named if len(named) > 1 else []

    def svg(self) -> Markup:
        """The chart's markup. All that comes from data is escaped."""
        return Markup("").join(_parts(self))


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers in a range, at most so many: 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    power = 10 ** math.floor(math.log10(raw))
    step = next((n * power for n in (1, 2, 5) if n * power >= raw * (1 - 1e-9)), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


@dataclass(frozen=True)
class _Frame:
    """From values to the picture's units."""

    x_range: Range
    y_range: Range

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (value - low) / ((high - low) or 1) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return HEIGHT - _BOTTOM - (value - low) / ((high - low) or 1) * (HEIGHT - _TOP - _BOTTOM)


def _parts(chart: Chart) -> Iterator[Markup]:
    frame = _Frame(chart.x_range, chart.y_range)
    yield Markup('<svg class="chart" role="img" viewBox="0 0 {} {}" aria-label="{}"{}>').format(
        WIDTH, HEIGHT, f"{chart.title}. {chart.description}", _axis(chart)
    )
    yield from _grid(chart, frame)
    # A nested svg cuts off what lies beyond it, without an id that must be unique in the page.
    width, height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    yield Markup('<svg x="{0}" y="{1}" width="{2}" height="{3}" viewBox="{0} {1} {2} {3}">').format(
        _LEFT, _TOP, width, height
    )
    if chart.diagonal:
        ends = frame.x(chart.x_range[0]), frame.y(0), frame.x(chart.x_range[1]), frame.y(1)
        yield Markup('<path class="guide" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(*ends)
    for line in chart.lines:
        yield _line(line, frame)
    yield Markup("</svg>")
    for line in chart.lines:
        yield from _dots(line, frame)
    yield Markup('<path class="rule" d="M0 {}V{}"/></svg>').format(_TOP, HEIGHT - _BOTTOM)


def _grid(chart: Chart, frame: _Frame) -> Iterator[Markup]:
    for value in ticks(*chart.y_range, most=4):
        y = frame.y(value)
        yield (
            Markup(
                '<path class="grid" d="M{} {:.1f}H{}"/><text class="y" x="{}" y="{:.1f}">'
            ).format(_LEFT, y, WIDTH - _RIGHT, _LEFT - 6, y + 3.5)
            + escape(chart.y_text(value))
            + Markup("</text>")
        )
    for value in ticks(*chart.x_range, most=5):
        if chart.whole_x and value != round(value):
            continue
        yield _text("x", frame.x(value), HEIGHT - _BOTTOM + 15, chart.x_text(value))
    yield _text("label", WIDTH - _RIGHT, HEIGHT - 4, chart.x_label, anchor="end")
    if chart.y_label:
        yield _text("label", 2, _TOP - 1, chart.y_label)
    for value, word in chart.marks:
        x = frame.x(value)
        yield Markup('<path class="mark" d="M{:.1f} {}V{}"/>').format(x, _TOP, HEIGHT - _BOTTOM)
        anchor = "end" if x > WIDTH / 2 else "start"
        yield _text("label", x + (-4 if anchor == "end" else 4), _TOP + 8, word, anchor=anchor)


def _text(style: str, x: float, y: float, text: str, *, anchor: str = "") -> Markup:
    where = Markup(' text-anchor="{}"').format(anchor) if anchor else Markup("")
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}"{}>{}</text>').format(
        style, x, y, where, text
    )


def _axis(chart: Chart) -> Markup:
    """For the page's script: where the x axis begins and ends, in values and in the picture."""
    if not any(line.texts for line in chart.lines):
        return Markup("")
    return Markup(' data-axis="{:g} {:g} {} {}"').format(*chart.x_range, _LEFT, WIDTH - _RIGHT)


def _line(line: Line, frame: _Frame) -> Markup:
    """The path, with a gap where a value is none."""
    places: list[str] = []
    pen = "M"
    values = [(x, y) for x, y in zip(line.x, line.y, strict=True)]
    for n, (x, y) in enumerate(values):
        if not math.isfinite(y):
            pen = "M"
            continue
        neighbours = {value for _, value in values[max(0, n - 1) : n + 2]}
        if pen == "M" or len(neighbours) > 1 or n == len(values) - 1:  # no corner otherwise
            places.append(f"{pen}{frame.x(x):.1f} {frame.y(y):.1f}")
        pen = "L"
    shown = Markup("")
    if line.texts:
        step = -(-len(line.texts) // _MOST_TEXTS)
        shown = Markup(' data-name="{}" data-x="{}" data-y="{}"').format(
            line.name, "|".join(f"{x:g}" for x in line.x[::step]), "|".join(line.texts[::step])
        )
    return Markup('<path class="line {}" d="{}"{}/>').format(line.style, "".join(places), shown)


def _dots(line: Line, frame: _Frame) -> Iterator[Markup]:
    for x, y in zip(line.x, line.y, strict=True) if line.dots else ():
        if math.isfinite(y):
            yield Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="2.6"/>').format(
                line.style, frame.x(x), frame.y(y)
            )

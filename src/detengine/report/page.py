"""The pages: values in, one HTML file out that needs nothing else, no network and no other file.

Everything that comes from data, configuration or log is escaped by the templates; the pages' own
script is named by its hash (Content-Security-Policy), so that no other one would run.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detengine import __version__
from detengine.evaluation.comparison import Comparison, Difference
from detengine.report.charts import difference_bounds
from detengine.report.numbers import count, duration, number, percent
from detengine.report.rendering import read_own, render
from detengine.report.study import Study, view_of
from detengine.report.svg import Chart

GENERATOR = "detengine report"
_FILTERS = {
    "percent": percent,
    "number": number,
    "duration": duration,
    "count": count,
    "points": lambda fraction: f"{100 * fraction:+.1f}",
}
_FEW = 3
"""Rows of a confusion matrix that two have room for beside each other."""


@dataclass(frozen=True)
class Status:
    """How a run stands. kind: running, finished, stopped, failed, interrupted or unknown."""

    kind: str
    text: str
    error: str | None = None


@dataclass(frozen=True)
class Card:
    """A number that matters. remark: what it is measured against."""

    title: str
    value: str
    remark: str


@dataclass(frozen=True)
class Table:
    """Numbers under names. rows: a name, then its cells. best: of each row, the cells in bold."""

    title: str
    head: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    best: Sequence[frozenset[int]] = ()
    folded: bool = False


@dataclass(frozen=True)
class Phase:
    """A part of a run's time. style: its colour's class."""

    name: str
    seconds: float
    share: float
    style: str


@dataclass(frozen=True)
class Step:
    """A command of the chapter on doing it again."""

    what: str
    command: str


@dataclass(frozen=True)
class RunPage:
    """All that a run's page shows. Empty parts are said to be so there.

    environments: of the sessions, the newest first, as title and named values.
    why_unstudied: why there are no analyses at all, where there are none.
    """

    name: str
    status: Status
    written: str
    facts: Sequence[str]
    cards: Sequence[Card]
    losses: Sequence[Chart]
    rates: Sequence[Chart]
    scores: Sequence[Chart]
    tables: Sequence[Table]
    studies: Sequence[Study]
    why_unstudied: str | None
    phases: Sequence[Phase]
    stages: Sequence[Phase]
    steps: Sequence[Chart]
    environments: Sequence[tuple[str, Mapping[str, str]]]
    changed: Sequence[tuple[str, str, str]]
    configuration: str
    commands: Sequence[Step]
    digests: Sequence[tuple[str, str, str]]
    messages: Sequence[Any]
    problems: Sequence[str]


@dataclass(frozen=True)
class Compared:
    """One run of a comparison. style: its colour's class."""

    name: str
    path: str
    status: Status
    style: str


@dataclass(frozen=True)
class Paired:
    """Two runs on the same images. reason: why they could not be compared, where they could not."""

    title: str
    comparison: Comparison | None
    reason: str | None = None


@dataclass(frozen=True)
class ComparisonPage:
    """All that a page of several runs shows. differences: key, then each run's value."""

    written: str
    runs: Sequence[Compared]
    losses: Sequence[Chart]
    rates: Sequence[Chart]
    scores: Sequence[Chart]
    tables: Sequence[Table]
    paired: Sequence[Paired]
    why_unpaired: str | None
    differences: Sequence[tuple[str, Sequence[str]]]
    environments: Sequence[tuple[str, Sequence[str]]]
    problems: Sequence[str]


def render_run(page: RunPage) -> str:
    """The HTML of a run's page."""
    views = [(study, [view_of(each) for each in study.analyses.values()]) for study in page.studies]
    tasks = [task for _, of_study in views for task in of_study]
    return _render(
        "run.html",
        page=page,
        views=views,
        title=page.name,
        has_tasks=bool(tasks),
        is_narrow=all(len(task.confusion) <= _FEW and len(task.curves) <= 1 for task in tasks),
    )


def render_comparison(page: ComparisonPage) -> str:
    """The HTML of a page of several runs."""
    title = " and ".join(each.name for each in page.runs)
    return _render("comparison.html", page=page, title=title, whisker=whisker)


def whisker(difference: Difference, among: Sequence[Difference | None]) -> Mapping[str, float]:
    """Where a difference and its interval stand on a common axis: parts of its width, 0 to 1."""
    low, high = difference_bounds([each for each in among if each is not None])

    def place(value: float) -> float:
        return (value - low) / (high - low)

    found = {"at": place(difference.difference), "zero": place(0.0)}
    if difference.low is not None and difference.high is not None:
        found |= {"from": place(difference.low), "to": place(difference.high)}
    return found


def _render(template: str, **values: Any) -> str:
    script = read_own("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return render(
        template,
        _FILTERS,
        style=read_own("style.css"),
        script=script,
        script_digest=digest,
        generator=f"{GENERATOR} {__version__}",
        **values,
    )

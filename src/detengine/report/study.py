"""What a test set's stored predictions tell, as values and as a page shows it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from detengine.evaluation.analysis_result import Analysis, Confusion, ErrorBreakdown, ImageErrors
from detengine.report.charts import calibration_chart, precision_recall_charts
from detengine.report.svg import Chart

_MOST_CURVES, _SHOWN_CURVES = 100, 9
_MOST_CONFUSED, _MOST_PAIRS = 20, 15

_MEANINGS = {
    "classification": "on an object of another class",
    "localisation": "on an object of its class, but overlapping it too little",
    "both": "a wrong class, and too little overlap",
    "duplicate": "on an object that a better detection has found",
    "background": "on no object",
    "missed": "an object that nothing found",
}


@dataclass(frozen=True)
class Picture:
    """An image of the test set, drawn. truth, prediction: data addresses, of one size in pixels."""

    errors: ImageErrors
    truth: str
    prediction: str
    width: int
    height: int


@dataclass(frozen=True)
class Study:
    """What the stored predictions of one test set tell.

    analyses: by iou type. reasons: why there is none, by iou type, or by "all" for the whole test
    set. worst, best: of the last iou type; where there are none, why_no_pictures says why.
    objects: how many each class has to be found.
    """

    test_set: str
    analyses: Mapping[str, Analysis] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    worst: Sequence[Picture] = ()
    best: Sequence[Picture] = ()
    why_no_pictures: str | None = None
    objects: Mapping[str, int] = field(default_factory=dict)


class ErrorRow(NamedTuple):
    """A kind of error. share: of the largest cost, for a bar."""

    name: str
    meaning: str
    number: int | None
    cost: float
    share: float


class ConfusionRow(NamedTuple):
    """A class of the truth. cells: how many of its objects were found as each, and the share."""

    name: str
    cells: Sequence[tuple[int, float]]


class Pair(NamedTuple):
    """Objects of the class `truth` that were found as `found`."""

    truth: str
    found: str
    number: int


@dataclass(frozen=True)
class TaskView:
    """What a page shows of one analysis. curves: charts; more_curves: those that are folded away.

    left_out: how many classes have no chart. confusion: rows and columns of the same classes, the
    background last; of many classes only the most confused.
    """

    iou_type: str
    analysis: Analysis
    curves: Sequence[Chart]
    more_curves: Sequence[Chart]
    left_out: int
    errors: Sequence[ErrorRow]
    confusion: Sequence[ConfusionRow]
    pairs: Sequence[Pair]
    hidden_classes: int
    calibration: Chart | None


def view_of(analysis: Analysis) -> TaskView:
    """The analysis as a page shows it."""
    curves = precision_recall_charts(analysis.curves)
    aps = analysis.scores.per_class.get(analysis.iou_type, {})
    lowest_first = sorted(
        curves, key=lambda each: -1.0 if each[0] is None else aps.get(each[0], 0.0)
    )
    charts = [chart for _, chart in lowest_first]
    confusion = analysis.confusion
    rows, hidden = ((), 0) if confusion is None else _confusion_rows(confusion)
    return TaskView(
        iou_type=analysis.iou_type,
        analysis=analysis,
        curves=charts[:_SHOWN_CURVES],
        more_curves=charts[_SHOWN_CURVES:_MOST_CURVES],
        left_out=max(0, len(charts) - _MOST_CURVES),
        errors=() if analysis.errors is None else tuple(_error_rows(analysis.errors)),
        confusion=rows,
        pairs=() if confusion is None else _pairs(confusion),
        hidden_classes=hidden,
        calibration=None
        if analysis.calibration is None
        else calibration_chart(analysis.calibration),
    )


def _error_rows(errors: ErrorBreakdown) -> Iterator[ErrorRow]:
    together = (
        ("all false positives", "of every kind together", errors.false_positives_cost),
        ("all that is missed", "whatever the reason", errors.missed_cost),
    )
    costs = [kind.ap_cost for kind in errors.kinds.values()]
    largest = max([*costs, *(cost for *_, cost in together)]) or 1.0
    for name, kind in errors.kinds.items():
        share = max(0.0, kind.ap_cost) / largest
        yield ErrorRow(name, _MEANINGS.get(name, ""), kind.count, kind.ap_cost, share)
    for name, meaning, cost in together:
        yield ErrorRow(name, meaning, None, cost, max(0.0, cost) / largest)


def _confusion_rows(confusion: Confusion) -> tuple[Sequence[ConfusionRow], int]:
    """The matrix, and how many classes are not in it, because others are confused more."""
    counts = np.array(confusion.counts)
    number = len(confusion.class_names)
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    most = np.argsort(-wrong[:number], kind="stable")[:_MOST_CONFUSED]
    chosen = [*sorted(most.tolist()), number]
    names = (*confusion.class_names, "background")
    rows = []
    for row in chosen:
        total = max(1, int(counts[row].sum()))
        cells = [
            (int(counts[row, column]), float(counts[row, column] / total)) for column in chosen
        ]
        rows.append(ConfusionRow(names[row], cells))
    return rows, number + 1 - len(chosen)


def _pairs(confusion: Confusion) -> Sequence[Pair]:
    """The most frequent confusions of two classes."""
    counts = np.array(confusion.counts)[:-1, :-1]
    np.fill_diagonal(counts, 0)
    places = np.argsort(-counts, axis=None, kind="stable")[:_MOST_PAIRS]
    names = confusion.class_names
    found = [divmod(int(place), len(names)) for place in places]
    return [Pair(names[t], names[p], int(counts[t, p])) for t, p in found if counts[t, p]]

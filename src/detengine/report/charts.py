"""Which charts a page has: a run's curves, its precision and recall, its calibration.

`runs` below are (name, history) pairs: one of them alone, or several to be compared.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from detengine.evaluation.analysis_result import RECALLS, Calibration, Curve
from detengine.evaluation.comparison import Difference
from detengine.report.history import History, Score, Series, envelope, smoothed, thinned
from detengine.report.numbers import count, number, percent, percent_tick
from detengine.report.svg import Chart, Line, Range

Runs = Sequence[tuple[str, History]]
Words = Callable[[float], str]

_POINTS, _SMOOTH_POINTS = 400, 200
_COLOURS = 8
_SMOOTHING = 25
"""A smoothed value is a mean over this part of the run."""
_MAIN_METRICS = ("AP", "AP50", "AP75")


def colour(n: int) -> str:
    """The n-th colour's class; further ones come round again, dashed."""
    return f"c{n % _COLOURS}" + (" dashed" if n >= _COLOURS else "")


def window_of(series: Series) -> int:
    """Over how many points the thick line is smoothed."""
    return max(1, len(series.values) // _SMOOTHING)


def loss_charts(runs: Runs) -> list[Chart]:
    """A chart for each loss, the total first: of training, and on test sets where measured."""
    names = dict.fromkeys(name for _, history in runs for name in history.losses())
    return [chart for name in names if (chart := _loss_chart(name, runs)) is not None]


def _loss_chart(name: str, runs: Runs) -> Chart | None:
    lines: list[Line] = []
    for n, (run, history) in enumerate(runs):
        series = history.losses().get(name)
        if series is not None:
            lines += _raw_and_smoothed(run or "training", series, colour(n), with_raw=len(runs) < 4)
        for score, on_test_set in history.scores().items():
            if score.task == "loss" and score.metric == name:
                label = f"{run}, {score.test_set}" if run else score.test_set
                style = f"{colour(n)} dotted" if run else "c1"
                lines.append(_line(label, on_test_set, style, number, dots=not run))
    top = _top([line.y for line in lines if "raw" not in line.style])
    if top is None:
        return None
    title = "total loss" if name == "loss" else name
    return _over_iterations(title, f"{title} over the iterations", lines, (0.0, top), number)


def _raw_and_smoothed(
    name: str, series: Series, style: str, *, with_raw: bool = True
) -> Iterator[Line]:
    window = window_of(series)
    if with_raw and window > 1:
        raw = envelope(series, _POINTS)
        yield Line("", raw.iterations.tolist(), raw.values.tolist(), f"{style} raw")
    smooth = Series(series.iterations, smoothed(series.values, window))
    yield _line(name, thinned(smooth, _SMOOTH_POINTS), style, number)


def _line(name: str, series: Series, style: str, in_words: Words, *, dots: bool = False) -> Line:
    x, y = series.iterations.tolist(), series.values.tolist()
    texts = [in_words(value) for value in y]
    return Line(name, x, y, style, dots=dots or len(x) == 1, texts=texts)


def _top(lines: Sequence[Sequence[float]]) -> float | None:
    """Where the y axis ends: above what is usual, so that a first peak does not flatten the rest.

    None where no value is finite.
    """
    values = np.array([value for line in lines for value in line if math.isfinite(value)])
    if not len(values):
        return None
    usual = float(np.quantile(values, 0.9))
    return min(float(values.max()), 2.5 * usual) * 1.08 or 1.0


def _over_iterations(
    title: str,
    description: str,
    lines: Sequence[Line],
    y_range: Range,
    y_text: Words,
    *,
    marks: Sequence[tuple[float, str]] = (),
) -> Chart:
    first = min((x for line in lines for x in line.x[:1]), default=0.0)
    last = max((x for line in lines for x in line.x[-1:]), default=1.0)
    return Chart(
        title,
        description,
        tuple(lines),
        (0.0 if first < last / 4 else first, last if last > first else first + 1),
        y_range,
        "iteration",
        x_text=count,
        y_text=y_text,
        marks=tuple(marks),
        whole_x=True,
    )


def lr_chart(runs: Runs) -> list[Chart]:
    """The learning rate, where there is one."""
    lines = [
        _line(run or "learning rate", thinned(series, _POINTS), colour(n), number)
        for n, (run, history) in enumerate(runs)
        if (series := history.series.get("train/lr")) is not None
    ]
    top = _top([line.y for line in lines])
    if top is None:
        return []
    top = max(top, 1.08 * max(value for line in lines for value in line.y))
    return [_over_iterations("learning rate", "learning rate", lines, (0.0, top), number)]


def step_chart(history: History) -> list[Chart]:
    """The seconds of a training step, and of them those of waiting for data."""
    lines: list[Line] = []
    for n, (name, label) in enumerate(
        (("train/time", "a step"), ("train/data", "waiting for data"))
    ):
        if (series := history.series.get(name)) is not None:
            lines += _raw_and_smoothed(label, series, colour(n))
    top = _top([line.y for line in lines if "raw" not in line.style])
    if top is None:
        return []
    return [
        _over_iterations("seconds a step", "seconds of a training step", lines, (0.0, top), number)
    ]


def score_charts(runs: Runs, best: Score | None = None) -> list[Chart]:
    """For each test set and task its main metrics over the iterations, the best marked.

    Of several runs there is a chart for the main metric alone. best: the metric that the best
    checkpoint is chosen by, if any.
    """
    tasks = dict.fromkeys(
        (score.test_set, score.task)
        for _, history in runs
        for score in history.scores()
        if score.task != "loss"
    )
    charts = (_score_chart(test_set, task, runs, best) for test_set, task in tasks)
    return [chart for chart in charts if chart is not None]


def _score_chart(test_set: str, task: str, runs: Runs, best: Score | None) -> Chart | None:
    lines = []
    for n, (run, history) in enumerate(runs):
        found = history.metrics_of(test_set, task)
        metrics = main_metrics(found)
        if best is not None and best[:2] == (test_set, task) and best.metric in found:
            metrics = list(dict.fromkeys([best.metric, *metrics]))
        for k, metric in enumerate(metrics if len(runs) == 1 else metrics[:1]):
            name, style = (metric, colour(k)) if len(runs) == 1 else (f"{run}, {metric}", colour(n))
            series = thinned(scored(found[metric]), _POINTS)
            lines.append(_line(name, series, style, percent, dots=True))
    values = [value for line in lines for value in line.y if math.isfinite(value)]
    if not values:
        return None
    title = f"{task} on {test_set}"
    return _over_iterations(
        title,
        f"{title} over the iterations, in percent",
        lines,
        (0.0, min(1.0, max(values) * 1.25) or 0.01),
        percent_tick,
        marks=_best_of(lines[0]) if len(runs) == 1 else (),
    )


def _best_of(line: Line) -> list[tuple[float, str]]:
    """A mark at a line's highest point, the first of several; none of a single point."""
    points = [(y, x) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    if len(points) < 2:
        return []
    y, x = max(points, key=lambda point: point[0])
    return [(x, f"best {line.name} {percent(y)}")]


def main_metrics(found: Iterable[str]) -> list[str]:
    """AP, AP50 and AP75 where they are there, else the first three."""
    names = list(found)
    return [name for name in _MAIN_METRICS if name in names] or names[:3]


def scored(series: Series) -> Series:
    """Without COCO's -1, which stands for nothing to score."""
    return Series(series.iterations, np.where(series.values < 0, np.nan, series.values))


_CURVE_STYLES = {
    0.5: ("IoU 0.50", "c0"),
    0.75: ("IoU 0.75", "c1 dashed"),
    None: ("mean of IoUs", "c2"),
}


def precision_recall_charts(curves: Sequence[Curve]) -> list[tuple[str | None, Chart]]:
    """A chart for the mean of the classes (None), then one for each class, of all its curves."""
    names = dict.fromkeys(curve.class_name for curve in curves)
    several = len(names) > 2
    charts = []
    for name in names if several else [each for each in names if each is not None]:
        title = "mean of all classes" if name is None else name
        lines = [_precision_line(curve) for curve in curves if curve.class_name == name]
        chart = _unit_chart(title, "precision over recall, in percent", lines, "recall")
        charts.append((name, chart))
    return charts


def _precision_line(curve: Curve) -> Line:
    """One curve; where it is pointed at, precision, and the score that gives it."""
    label, style = _CURVE_STYLES.get(curve.iou, (f"IoU {curve.iou}", "c3"))
    scores = curve.scores if curve.scores is not None and curve.iou == 0.5 else (None,) * 101
    texts = [
        percent(value) if score is None else f"{percent(value)} (score {score:.2f})"
        for value, score in zip(curve.precision, scores, strict=True)
    ]
    return Line(label, [100 * each for each in RECALLS], curve.precision, style, texts=texts)


def _unit_chart(
    title: str,
    description: str,
    lines: Sequence[Line],
    x_label: str,
    *,
    y_label: str = "",
    diagonal: bool = False,
) -> Chart:
    return Chart(
        title,
        description,
        tuple(lines),
        (0.0, 100.0),
        (0.0, 1.02),
        f"{x_label}, %",
        y_label=y_label,
        y_text=percent_tick,
        diagonal=diagonal,
    )


def calibration_chart(calibration: Calibration) -> Chart:
    """The share of hits over the mean score; on the diagonal where scores are probabilities."""
    bins = [each for each in calibration.bins if each.count]
    x = [100 * (each.mean_score or 0.0) for each in bins]
    y = [each.precision or 0.0 for each in bins]
    texts = [f"{percent(value)} % of {each.count:,}" for value, each in zip(y, bins, strict=True)]
    line = Line("are hits", x, y, "c0", dots=True, texts=texts)
    return _unit_chart(
        "hits at each score", "share of hits over the score", [line], "score", diagonal=True
    )


def difference_bounds(differences: Sequence[Difference]) -> Range:
    """A range that holds all intervals, and 0."""
    values = [0.0]
    for each in differences:
        values += [value for value in (each.difference, each.low, each.high) if value is not None]
    reach = max(map(abs, values)) * 1.1 or 0.01
    return -reach, reach

"""A run's numbers over its iterations, read from metrics.jsonl and made fit to be drawn."""

import json
import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Series:
    """One metric. iterations, values: float64[N], ascending; a value may be infinite or NaN."""

    iterations: Floats
    values: Floats

    def last_mean(self, number: int) -> float:
        """The mean of the last values; NaN if none of them is finite."""
        return Series(self.iterations[-number:], self.values[-number:]).mean

    @property
    def mean(self) -> float:
        """Of the finite values; NaN if there is none."""
        finite = self.values[np.isfinite(self.values)]
        return float(finite.mean()) if len(finite) else math.nan


class Score(NamedTuple):
    """Where a score's series belongs: `val/<test set>/<task>/<metric>`."""

    test_set: str
    task: str
    metric: str

    @classmethod
    def of(cls, name: str) -> "Score | None":
        """The place that a metric's name tells; None for a name of another kind."""
        head, _, rest = name.partition("/")
        parts = rest.rsplit("/", 2)
        return cls(*parts) if head == "val" and len(parts) == 3 else None


@dataclass(frozen=True, eq=False)
class History:
    """All of a run's metrics by name. unread: lines of the file that are none of its own."""

    series: Mapping[str, Series]
    unread: int = 0

    @property
    def iteration(self) -> int:
        """The last iteration of which anything is known."""
        return max((int(each.iterations[-1]) for each in self.series.values()), default=0)

    def losses(self) -> dict[str, Series]:
        """The training's losses, the total first, without `train/`."""
        found = {
            name.removeprefix("train/"): series
            for name, series in self.series.items()
            if name.startswith("train/loss")
        }
        return dict(sorted(found.items(), key=lambda item: item[0] != "loss"))

    def metrics_of(self, test_set: str, task: str) -> dict[str, Series]:
        """The metrics of one task, by name."""
        return {
            score.metric: series
            for score, series in self.scores().items()
            if score[:2] == (test_set, task)
        }

    def scores(self) -> dict[Score, Series]:
        """What was measured on test sets, losses included."""
        places = ((Score.of(name), series) for name, series in self.series.items())
        return {place: series for place, series in places if place is not None}


def read_history(path: Path) -> History:
    """The metrics of a file of JsonlSink; none where there is no file.

    A killed run's torn last line, and lines that somebody else wrote, are counted and passed over.
    """
    columns: dict[str, tuple[array[float], array[float]]] = {}
    unread = 0
    for line in _lines_of(path):
        metrics = _metrics_of(line)
        if metrics is None:
            unread += 1
            continue
        iteration = metrics.pop("iteration", math.nan)  # not there in an empty line
        for name, value in metrics.items():
            if name not in columns:
                columns[name] = array("d"), array("d")
            columns[name][0].append(iteration)
            columns[name][1].append(value)
    return History({name: _series(*each) for name, each in columns.items()}, unread)


def _lines_of(path: Path) -> Iterator[bytes]:
    """One in memory at a time."""
    if path.is_file():
        with path.open("rb") as lines:
            yield from lines


def _metrics_of(line: bytes) -> dict[str, Any] | None:
    """A line's numbers; none of an empty one, None for one that is not a sink's."""
    if not line.strip():
        return {}
    try:
        found = {name: float(value) for name, value in json.loads(line).items()}
    except (ValueError, TypeError, AttributeError):
        return None
    return found if math.isfinite(found.get("iteration", math.nan)) else None


def _series(iterations: "array[float]", values: "array[float]") -> Series:
    at, found = np.array(iterations), np.array(values)
    order = np.argsort(at, kind="stable")
    return Series(at[order], found[order])


def smoothed(values: Floats, window: int) -> Floats:
    """The mean of the finite values around each one, of `window` at most; NaN where none is.

    At the ends there are fewer, evenly on both sides, so that no slope is flattened.
    """
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    places = np.arange(len(values))
    reach = np.minimum(np.minimum(places, len(values) - 1 - places), window // 2)
    first, stop = places - reach, places + reach + 1
    number = counts[stop] - counts[first]
    means = (sums[stop] - sums[first]) / np.maximum(number, 1)
    return np.where(number > 0, means, np.nan)


def thinned(series: Series, most: int) -> Series:
    """At most so many points, evenly spaced, the last one among them."""
    if len(series.values) <= most:
        return series
    chosen = np.unique(np.linspace(0, len(series.values) - 1, most).round().astype(np.int64))
    return Series(series.iterations[chosen], series.values[chosen])


def envelope(series: Series, most: int) -> Series:
    """At most so many points, with all peaks: the least and the greatest of each stretch."""
    if len(series.values) <= most:
        return series
    chosen = set()
    for part in np.array_split(np.arange(len(series.values)), most // 2):
        finite = part[np.isfinite(series.values[part])]
        places = finite if len(finite) else part
        values = series.values[places]
        chosen |= {int(places[values.argmin()]), int(places[values.argmax()])}
    places = np.array(sorted(chosen))
    return Series(series.iterations[places], series.values[places])

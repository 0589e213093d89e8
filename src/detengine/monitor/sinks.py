"""Where a run's numbers and pictures go, besides the log."""

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

logger = logging.getLogger("detengine.monitor")

METRICS = "metrics.jsonl"
"""In the run's folder."""


class Sink(Protocol):
    """Takes metrics named `train/loss`, `val/<test set>/bbox/AP50`, ... on the main process."""

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics after so many finished iterations."""

    def write_pictures(self, iteration: int, pictures: Mapping[str, Path]) -> None:
        """Take an evaluation's pictures, PNG files by name; the next evaluation overwrites them."""

    def close(self) -> None:
        """Finish; nothing is written afterwards. Also where the run has failed."""


class JsonlSink:
    """One JSON object a line: `{"iteration": 20, "train/loss": 0.5}`, on disk at once.

    JSON has no numbers that are not finite: they are the strings "nan", "inf" and "-inf", which
    Python's `float` reads back. An existing file is continued behind the lines of the first
    `finished_iterations`; those of later ones, which a resumed run repeats, are dropped.
    """

    def __init__(self, path: str | Path, finished_iterations: int | None = None) -> None:
        path = Path(path)
        _drop_torn_line(path)
        if finished_iterations is not None and path.exists():
            _drop_later_lines(path, finished_iterations)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        plain = {name: plain_number(float(value)) for name, value in metrics.items()}
        self._file.write(json.dumps({"iteration": iteration, **plain}) + "\n")

    def write_pictures(self, iteration: int, pictures: Mapping[str, Path]) -> None:
        pass  # they lie beside the file, in the run's folder

    def close(self) -> None:
        self._file.close()


class OptionalSink:
    """Another sink whose failure does not end the run: it is warned of, and the sink switched off.

    A training is not worth less because a disk or a network was gone for what only watches it. That
    the sink's record is not whole is said again at the end.
    """

    def __init__(self, name: str, sink: Sink) -> None:
        self._name = name
        self._sink: Sink | None = sink
        self._failed_at: int | None = None

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self._try(iteration, lambda sink: sink.write(iteration, metrics))

    def write_pictures(self, iteration: int, pictures: Mapping[str, Path]) -> None:
        self._try(iteration, lambda sink: sink.write_pictures(iteration, pictures))

    def close(self) -> None:
        self._try(None, lambda sink: sink.close())
        if self._failed_at is not None:
            logger.warning(
                "%s has nothing of this run from iteration %d on: writing to it failed (see "
                "above). metrics.jsonl is whole.",
                self._name,
                self._failed_at,
            )

    def _try(self, iteration: int | None, do: Callable[[Sink], None]) -> None:
        if self._sink is None:
            return
        try:
            do(self._sink)
        except Exception as error:  # of another's package: it may be any
            failed, self._sink = self._sink, None
            self._failed_at = iteration
            self._warn(error)
            if iteration is not None:
                self._close_quietly(failed)

    def _warn(self, error: Exception) -> None:
        logger.warning(
            "%s failed and is switched off for the rest of the run: %s: %s. The training goes on, "
            "and metrics.jsonl has all its numbers.",
            self._name,
            type(error).__name__,
            error,
        )

    def _close_quietly(self, sink: Sink) -> None:
        try:
            sink.close()
        except Exception as error:
            logger.debug("%s could not be closed: %s", self._name, error)


def evaluations_in(path: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """The iteration and the metrics of each evaluation that a `metrics.jsonl` tells of."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for line in lines:
        metrics = _parsed(line)
        scores = {name: float(metrics[name]) for name in metrics if name.startswith("val/")}
        if scores:
            yield int(metrics["iteration"]), scores


def plain_number(value: float) -> float | str:
    """A number as JSON can hold it: "nan", "inf" and "-inf" as text."""
    return value if math.isfinite(value) else str(value)


def last_iteration_with(prefix: str, path: Path, until: int) -> int | None:
    """The last iteration, up to `until`, of a file's lines with such a metric; None without one.

    prefix: what the metric's name begins with.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for line in reversed(lines):
        metrics = _parsed(line)
        if any(name.startswith(prefix) for name in metrics) and metrics["iteration"] <= until:
            return int(metrics["iteration"])
    return None


def _drop_later_lines(path: Path, iteration: int) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if _parsed(line).get("iteration", 0) <= iteration]
    if len(kept) < len(lines):
        aside = path.with_name(path.name + ".tmp")
        aside.write_text("".join(kept), encoding="utf-8")
        aside.replace(path)


def _parsed(line: str) -> dict[str, Any]:
    """A line's metrics; none where somebody else wrote it, which is left as it is."""
    try:
        metrics = json.loads(line)
    except ValueError:
        return {}
    return metrics if isinstance(metrics, dict) and "iteration" in metrics else {}


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line without its end, which a killed run left behind."""
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)

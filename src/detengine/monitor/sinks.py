"""Where a run's numbers and pictures go, besides the log."""

import errno
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Protocol

from detengine.disk.writing import naming, sync, whole_file
from detengine.untrusted.links import without_link

logger = logging.getLogger("detengine.monitor")

METRICS = "metrics.jsonl"
"""In the run's folder."""

_BLOCK = 2**16
"""Bytes that are looked through at a time."""


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
        self._path = path = without_link(Path(path))
        with naming(path):
            _drop_torn_line(path)
            if finished_iterations is not None and path.exists():
                _drop_later_lines(path, finished_iterations)
            self._file = path.open("ab", buffering=0)

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        plain = {name: plain_number(float(value)) for name, value in metrics.items()}
        line = json.dumps({"iteration": iteration, **plain}) + "\n"
        with naming(self._path):
            if not self._path.exists():  # else all that follows would be lost, or on another disk
                raise FileNotFoundError(errno.ENOENT, "it was removed, or its disk is gone")
            _write_all(self._file, line.encode())

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
    for metrics in _lines_with("val/", path):
        scores = {name: metrics[name] for name in metrics if name.startswith("val/")}
        yield int(metrics["iteration"]), scores


def plain_number(value: float) -> float | str:
    """A number as JSON can hold it: "nan", "inf" and "-inf" as text."""
    return value if math.isfinite(value) else str(value)


def last_iteration_with(prefix: str, path: Path, until: int) -> int | None:
    """The last iteration, up to `until`, of a file's lines with such a metric; None without one.

    prefix: what the metric's name begins with.
    """
    last = None
    for metrics in _lines_with(prefix, path):
        if metrics["iteration"] <= until:
            last = int(metrics["iteration"])
    return last


def _lines_with(prefix: str, path: Path) -> Iterator[dict[str, float]]:
    """The metrics of each line with a name that begins so, one line in memory at a time."""
    if not path.is_file():
        return
    mark = f'"{prefix}'.encode()
    with path.open("rb") as lines:
        for line in lines:
            metrics = _parsed(line) if mark in line else {}
            if any(name.startswith(prefix) for name in metrics):
                yield metrics


def _write_all(file: FileIO, content: bytes) -> None:
    """A disk that is almost full takes a part first, and says at the next what is wrong."""
    while content:
        content = content[file.write(content) :]


def _drop_later_lines(path: Path, iteration: int) -> None:
    """Nothing is written where there are none; a run's file may have a million lines."""
    with path.open("rb") as lines:
        if all(map(partial(_is_of, iteration), lines)):
            return
        lines.seek(0)
        with whole_file(path, durable=True) as aside, aside.open("wb") as kept:
            kept.writelines(filter(partial(_is_of, iteration), lines))
            sync(kept)


def _is_of(iteration: int, line: bytes) -> bool:
    """Whether it belongs to the iterations up to this one, or is somebody else's."""
    return bool(_parsed(line).get("iteration", 0) <= iteration)


def _parsed(line: bytes) -> dict[str, float]:
    """A line's metrics; none where it is damaged or somebody else's, which is left as it is."""
    try:
        found = json.loads(line)
        metrics = {name: float(value) for name, value in found.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
    return metrics if math.isfinite(metrics.get("iteration", math.nan)) else {}


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line without its end, which a killed run left behind."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        stop = file.seek(0, os.SEEK_END)
        while stop:
            start = max(0, stop - _BLOCK)
            file.seek(start)
            end = file.read(stop - start).rfind(b"\n")
            if end >= 0:
                file.truncate(start + end + 1)
                return
            stop = start
        file.truncate(0)

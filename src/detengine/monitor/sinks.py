"""Where a run's numbers go, besides the log."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Sink(Protocol):
    """Takes metrics named `train/loss`, `val/<test set>/bbox/AP50`, ... on the main process."""

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics after so many finished iterations."""

    def close(self) -> None:
        """Finish; nothing is written afterwards."""


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

    def close(self) -> None:
        self._file.close()


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

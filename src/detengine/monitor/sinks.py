"""Where a run's numbers go, besides the log."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Sink(Protocol):
    """Takes metrics named `train/loss`, `val/<test set>/bbox/AP50`, ... on the main process."""

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics after so many finished iterations."""

    def close(self) -> None:
        """Finish; nothing is written afterwards."""


class JsonlSink:
    """One JSON object a line: `{"iteration": 20, "train/loss": 0.5}`, on disk at once.

    JSON has no numbers that are not finite: they are the strings "nan", "inf" and "-inf", which
    Python's `float` reads back. An existing file is continued; a resumed run may write an iteration
    that is there already, and its later line is the one that counts.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        _drop_torn_line(path)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        plain = {name: _plain(float(value)) for name, value in metrics.items()}
        self._file.write(json.dumps({"iteration": iteration, **plain}) + "\n")

    def close(self) -> None:
        self._file.close()


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line without its end, which a killed run left behind."""
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)

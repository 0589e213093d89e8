"""What the comparisons share: works that take turns, a table of them, and the last line of JSON.

Machines are shared and noisy, so that a time alone says little. All works of a comparison are timed
one after the other in each round, and what is reported is the ratio of medians, with the spread.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

import torch


class Timing(NamedTuple):
    """Seconds: the median of the rounds, the fastest and the slowest."""

    median: float
    best: float
    worst: float

    @classmethod
    def of(cls, seconds: list[float]) -> "Timing":
        return cls(statistics.median(seconds), min(seconds), max(seconds))

    def in_units(self, unit: float = 1e-3, digits: int = 2) -> str:
        """The median with its spread, such as `1.20 (1.18 to 1.31)`. unit: in seconds."""
        median, best, worst = (f"{each / unit:.{digits}f}" for each in self)
        return f"{median} ({best} to {worst})"


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(
    works: Mapping[str, Callable[[], object]], rounds: int = 5, *, warm_up: bool = True
) -> dict[str, Timing]:
    """Each work once a round, one after the other. warm_up: a round before that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(-1 if warm_up else 0, rounds):
        for name, work in works.items():
            took = seconds_of(work)
            if number >= 0:
                seconds[name].append(took)
    return {name: Timing.of(each) for name, each in seconds.items()}


def machine(*packages: str) -> dict[str, str]:
    """The processor or the card, its cores, and the versions of torch and of these packages."""
    found = {"processor": _processor(), "cores": str(len(os.sched_getaffinity(0)))}
    if torch.cuda.is_available():
        found["card"] = torch.cuda.get_device_name()
    found["python"] = platform.python_version()
    return found | {name: version(name) for name in ("torch", *packages)}


def _processor() -> str:
    with open("/proc/cpuinfo") as lines:  # noqa: PTH123
        named = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
        return next(named, platform.machine())


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """In Markdown, as it stands in RESULTS.md."""
    lines = [header, ["---"] * len(header), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        print(f"| {' | '.join(cells)} |")


def print_json(benchmark: str, where: Mapping[str, str], **readings: Any) -> None:
    """The last line. where: of `machine`."""
    print(json.dumps({"benchmark": benchmark, "machine": dict(where), **readings}))

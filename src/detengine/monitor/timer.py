"""Wall-clock time of a repeated piece of work, and of one that has stages."""

import datetime
import time


class Timer:
    """Adds up the seconds between each `tic` and its `toc`.

    A device works on after the host has gone ahead; wait for it before `toc` if its time counts.
    """

    def __init__(self) -> None:
        self.total_seconds = 0.0
        self.calls = 0
        self._start: float | None = None

    @property
    def average(self) -> float:
        """Seconds a call; 0 before the first."""
        return self.total_seconds / self.calls if self.calls else 0.0

    def tic(self) -> None:
        self._start = time.perf_counter()

    def toc(self, average: bool = True) -> float:
        """Close the call that `tic` opened. Returns all calls' average, or this one's seconds.

        Raises RuntimeError if no `tic` came before: each closes one call.
        """
        if self._start is None:
            raise RuntimeError("Timer.toc() was called without a tic() before it")
        seconds = time.perf_counter() - self._start
        self._start = None
        self.total_seconds += seconds
        self.calls += 1
        return self.average if average else seconds


class Stages:
    """How long each stage of a piece of work took, such as the start of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def end(self, name: str) -> None:
        """The stage since the one before has ended."""
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now

    def __str__(self) -> str:
        """`1.20 s: data sets 0.90, model 0.30`."""
        parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in self.seconds.items())
        return f"{sum(self.seconds.values()):.2f} s: {parts}"


def get_time_str(seconds: float) -> str:
    """`0:01:30`, `1 day, 0:00:00`, with six decimals where the seconds are not whole."""
    return str(datetime.timedelta(seconds=seconds))

"""Numbers as the pages show them."""

import math

from detengine.evaluation.result import percent as score_in_percent


def number(value: float) -> str:
    """Four digits at most, small and large ones short."""
    if not math.isfinite(value):
        return "n/a" if math.isnan(value) else str(value)
    if value and abs(value) < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-")
    return f"{value:.4g}"


def percent(value: float) -> str:
    """As in the tables of an evaluation; n/a also for what is no number."""
    return score_in_percent(value) if math.isfinite(value) else "n/a"


def percent_tick(value: float) -> str:
    return f"{100 * value:.4g}"


def count(value: float) -> str:
    """1500 as 1,500 and 90000 as 90k."""
    if abs(value) >= 10_000 and value % 100 == 0:
        return f"{value / 1e6:g}M" if abs(value) >= 1e6 else f"{value / 1000:g}k"
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """`2.4 s`, `3 min 20 s`, `5 h 12 min`, `2 d 3 h`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    units = [(86400, "d"), (3600, "h"), (60, "min"), (1, "s")]
    first = next(n for n, (size, _) in enumerate(units) if whole >= size)
    parts = []
    for size, unit in units[first : first + 2]:
        if whole >= size:
            parts.append(f"{whole // size} {unit}")
        whole %= size
    return " ".join(parts)

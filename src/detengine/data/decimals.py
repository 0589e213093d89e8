"""Numbers in texts that other programs wrote. Without torch."""

import math
import re

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)


def read_number(text: str) -> float:
    """A decimal number; NaN for all else, Python's own `1_000` and other scripts' digits included.

    Infinite for one that is beyond 64 bits.
    """
    return float(text) if _NUMBER.fullmatch(text) else math.nan

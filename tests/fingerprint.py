"""Everything that a run leaves behind, as digests, so that two runs can be held against each other.

Not there is what a clock, a process or a path says: times, memory, the configuration's folders.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from detengine.checkpoint.files import load_file

CLOCKS = ("time", "data", "max_mem")
STATES = ("model", "optimizer", "scheduler", "precision", "ema", "iteration")
FILES = ("results.json", "per_class.json", "inference/**/*.*", "pictures/**/*.png")


def fingerprint(folder: Path) -> dict[str, str]:
    """By what it is of: states in model_final.pth, numbers in metrics.jsonl, files by their bytes.

    Raises AssertionError if nothing was trained or nothing scored.
    """
    end = load_file(folder / "model_final.pth")
    found = {f"model_final.pth/{name}": _digest(end[name]) for name in STATES}
    meters = {name: meter for name, meter in end["meters"].items() if name not in CLOCKS}
    found["model_final.pth/meters"] = _digest(meters)
    found["metrics.jsonl"] = _digest(list(_metrics(folder / "metrics.jsonl")))
    for pattern in FILES:
        for path in sorted(folder.glob(pattern)):
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    assert any(name.endswith("predictions.pth") for name in found), sorted(found)
    return found


def _metrics(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        numbers = json.loads(line)
        yield {name: numbers[name] for name in numbers if name.rpartition("/")[2] not in CLOCKS}


def _digest(value: Any) -> str:
    digest = hashlib.sha256()
    for part in _parts(value):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    """Names, structure and every bit of every tensor."""
    if isinstance(value, torch.Tensor):
        yield f"{value.dtype}{list(value.shape)}".encode()
        yield value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, dict):
        for name, each in value.items():
            yield f"{name!r}:".encode()
            yield from _parts(each)
    elif isinstance(value, list | tuple):
        yield f"{len(value)},".encode()
        for each in value:
            yield from _parts(each)
    else:
        yield f"{value!r};".encode()

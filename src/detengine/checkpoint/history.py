"""The checkpoints of a run's folder: their names, which is the newest, and which can go."""

import logging
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from detengine.disk.writing import write_text
from detengine.distributed.out_of_memory import is_out_of_memory
from detengine.untrusted.tensors import load_tensors

LAST = "last_checkpoint"
"""The file that names the checkpoint to go on from: relative, so that the folder can be moved."""
FINAL = "model_final"
BEST = "model_best"

_NAME = re.compile(rf"(?:model_(\d{{7,}})|{FINAL}|{BEST})\.pth")
_LEFTOVERS = ("model_*.pth.tmp", "model_*.pth.sha256.tmp", f"{LAST}.tmp")

_logger = logging.getLogger("detengine.checkpoint")

T = TypeVar("T")


def checkpoint_name(iteration: int) -> str:
    """`model_0002500`, after so many finished iterations."""
    return f"model_{iteration:07d}"


def raise_if_no_file_name(name: str) -> None:
    """Raise ValueError for a checkpoint's name that would lead out of its folder."""
    if not name or name != Path(name).name:
        raise ValueError(
            f"a checkpoint cannot be called {name!r}; expected the name of a file in the run's "
            "folder, without .pth, such as model_0002500"
        )


def has_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a run to go on with, be it one killed at its first checkpoint."""
    return bool(_checkpoints(folder)) or _read_last(folder) is not None


def write_last(folder: Path, name: str) -> None:
    """Make a file of the folder the one to go on from. Raises OSError as `write_text` does."""
    write_text(folder / LAST, f"{name}\n")


def candidates(folder: Path) -> Iterator[Path]:
    """What a run can go on from, the best first.

    That is the file that last_checkpoint names, then the others from the most to the fewest
    iterations, and model_best at the end. None of them is verified.
    """
    last = _read_last(folder)
    if last is not None:
        yield last
    yield from sorted(_checkpoints(folder) - {last}, key=_age, reverse=True)


def read_newest(folder: Path, read: Callable[[Path], T]) -> tuple[Path, T]:
    """The first of the candidates that can be read, and what was read.

    A damaged one is named in a warning, and the one before it is taken. read: raises OSError or
    ValueError for a damaged file. Raises FileNotFoundError if there are no candidates, and
    ValueError, with all reasons, if none is whole.
    """
    reasons: list[str] = []
    for path in candidates(folder):
        try:
            content = read(path)
        except (OSError, ValueError) as error:
            if is_out_of_memory(error):  # the next one would take as much
                raise
            _logger.warning("%s is passed over for the one before it: %s", path.name, error)
            reasons.append(f"  {path.name}: {error}")
        else:
            return path, content
    if not reasons:
        raise no_run(folder)
    table = "\n".join(reasons)
    raise ValueError(
        f"no checkpoint in {folder} is whole, so its run cannot go on:\n{table}\nCopy one that is "
        "whole into the folder, with its .sha256, or start the run anew in another OUTPUT_DIR."
    )


def no_run(folder: Path | None) -> FileNotFoundError:
    """The error for a folder that holds nothing to go on from."""
    return FileNotFoundError(
        f"there is no run to resume in {folder or 'no folder at all'}: it holds no model_*.pth. "
        "Start it without --resume, or set its OUTPUT_DIR."
    )


def remove_older(folder: Path, keep: int, saved: Path) -> None:
    """Remove all but the newest `keep` of the numbered checkpoints up to the one just saved.

    Later ones, of a run that was sent back, stay until it passes them. What cannot be removed is
    named in a warning.
    """
    numbers = {path: _number(path) for path in _checkpoints(folder)}
    reached = _number(saved)
    older = [
        (number, path)
        for path, number in numbers.items()
        if number is not None and (reached is None or number <= reached)
    ]
    for _, path in sorted(older)[:-keep]:
        try:
            path.unlink()
            path.with_name(f"{path.name}.sha256").unlink(missing_ok=True)
        except OSError as error:
            _logger.warning("the old checkpoint %s cannot be removed: %s", path, error)


def remove_leftovers(folder: Path) -> None:
    """Remove what a run that was killed while saving had half written."""
    for pattern in _LEFTOVERS:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    for checksums in folder.glob("model_*.pth.sha256"):
        path = checksums.with_suffix("")
        if _NAME.fullmatch(path.name) and not path.exists():
            checksums.unlink(missing_ok=True)


def _checkpoints(folder: Path) -> set[Path]:
    """The files that have a checkpoint's name."""
    files = folder.glob("model_*.pth")
    return {path for path in files if _NAME.fullmatch(path.name) and path.is_file()}


def _read_last(folder: Path) -> Path | None:
    """The file that last_checkpoint names; None, and a warning where it names none."""
    last = folder / LAST
    if not last.exists():
        return None
    try:
        name = last.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = f"cannot be read ({error})"
    else:
        if name and name == Path(name).name and (folder / name).is_file():
            return folder / name
        reason = f"names {name!r}, which is no file of this folder" if name else "is empty"
    _logger.warning("%s %s; the checkpoint with the most iterations is taken", last, reason)
    return None


def _number(path: Path) -> int | None:
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match and match[1] else None


def _age(path: Path) -> tuple[bool, float, str]:
    """Sorts model_best first, then from the fewest iterations to the most."""
    return path.stem != BEST, _iteration(path), path.name


def _iteration(path: Path) -> float:
    """As the file says; where it is too damaged to say, as its name does. No tensor is read."""
    try:
        return float(load_tensors(path, mmap=True)["iteration"])
    except Exception:  # whatever a damaged file makes the reader raise
        number = _number(path)
        return math.inf if number is None else number

"""The entries of a checkpoint of ours, and what a run that goes on needs of them."""

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from detengine.checkpoint.files import are_tensors
from detengine.checkpoint.own_entries import own_entries
from detengine.untrusted.excerpt import excerpt

FORMAT = 1
STATES = ("optimizer", "scheduler", "precision", "ema")
OWN_ENTRIES = ("format", "model", *STATES, "categories", "config")
"""All but the arguments of `save`."""

_NEW_RUN = (
    "To start a new run from its weights, name it as MODEL.WEIGHT and set another OUTPUT_DIR."
)


def with_all_entries(path: Path, entries: Mapping[str, Any]) -> dict[str, Any]:
    """What was read from a file; the states that it lacks are None, its categories then none.

    A foreign file's states are not ours to read, and are None too. Raises ValueError for a file of
    another version's format, or with entries of another kind.
    """
    data = {"categories": [], **entries}
    data |= {part: entries.get(part) if "format" in entries else None for part in STATES}
    found = data.get("format", FORMAT)
    if type(found) is not int or found != FORMAT:  # a tensor is equal and unequal at once
        raise ValueError(
            f"{path} has the checkpoint format {excerpt(found)}; this detengine reads format "
            f"{FORMAT}. It was written by another version: use that one, or update."
        )
    own_entries(path, data)
    if data["ema"] is not None and not _is_average(data["ema"]):
        raise ValueError(f"'ema' in {path} holds no 'weights'; expected names and tensors.")
    return data


def _is_average(ema: Any) -> bool:
    return isinstance(ema, Mapping) and "weights" in ema and are_tensors(ema["weights"])


def raise_if_argument_is_entry(arguments: Mapping[str, Any]) -> None:
    """Raise TypeError if an argument of `save` has the name of an entry of ours."""
    doubled = sorted(arguments.keys() & set(OWN_ENTRIES))
    if doubled:
        raise TypeError(f"{', '.join(doubled)} cannot be arguments: they are entries of ours")


def raise_if_no_run(path: Path, data: Mapping[str, Any]) -> None:
    """Raise ValueError unless the file is a run's, saved with its iteration."""
    if "format" not in data:
        raise ValueError(
            f"{path} was not written by detengine, so a run cannot go on from it. {_NEW_RUN}"
        )
    iteration = data.get("iteration")
    if not isinstance(iteration, int) or iteration < 0:
        raise ValueError(
            f"{path} does not say after how many iterations it was saved: its 'iteration' is "
            f"{iteration!r}, so a run cannot go on from it. Save it with iteration=..., the number "
            f"of finished ones. {_NEW_RUN}"
        )


def raise_if_states_missing(path: Path, data: Mapping[str, Any], needed: Set[str]) -> None:
    """Raise ValueError if the file lacks a state of a run. needed: those of STATES it has."""
    if lacking := sorted(needed - states_in(data)):
        raise ValueError(
            f"{path} holds no {', no '.join(lacking)}, so this run cannot go on from it. {_NEW_RUN}"
        )


def states_in(data: Mapping[str, Any]) -> set[str]:
    """Those of STATES that a file has."""
    return {part for part in STATES if data[part] is not None}

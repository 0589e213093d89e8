"""What files of foreign formats hold of ours beside the weights, where we wrote them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

OWN_TEXTS = ("categories", "config")
"""The class names, of labels 1, 2, ...; the configuration, as YAML."""


def own_entries(path: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """The class names (`categories`) and the configuration (`config`, YAML), where there are any.

    Raises ValueError where they are of another kind, as in a file that was tampered with.
    """
    entries = {name: found[name] for name in OWN_TEXTS if name in found}
    names = entries.get("categories", [])
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise ValueError(f"'categories' in {path} are no list of class names: {names!r:.80}.")
    if not isinstance(entries.get("config", ""), str):
        raise ValueError(f"'config' in {path} is no YAML text: {entries['config']!r:.80}.")
    return entries

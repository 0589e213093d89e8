"""detengine config: the resolved configuration, what differs from its defaults, or all options."""

from collections.abc import Sequence
from pathlib import Path

from detengine.config.load import difference, load_config, to_yaml
from detengine.config.reference import json_schema, reference_page
from detengine.config.scaling import scaled


def show_config(path: Path, overrides: Sequence[str], diff: bool) -> None:
    """Print the configuration as YAML that can be loaded again.

    diff: only what differs from the defaults of its CONVENTIONS. What training would scale by
    SOLVER.REFERENCE_IMS_PER_BATCH is scaled, and a comment says it. Raises ConfigError.
    """
    cfg, scaling = scaled(load_config(path, overrides))
    if scaling:
        print(f"# {scaling}")
    print(difference(cfg) if diff else to_yaml(cfg), end="")


def show_schema() -> None:
    """Print the JSON Schema of configuration files, for editors."""
    print(json_schema(), end="")


def show_reference() -> None:
    """Print the page of all options, as Markdown."""
    print(reference_page(), end="")

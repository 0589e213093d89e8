"""detengine config: the resolved configuration, or what differs from its defaults."""

from collections.abc import Sequence
from pathlib import Path

from detengine.config.load import difference, load_config, to_yaml


def show_config(path: Path, overrides: Sequence[str], diff: bool) -> None:
    """Print the configuration as YAML that can be loaded again.

    diff: only what differs from the defaults of its CONVENTIONS. Raises ConfigError.
    """
    cfg = load_config(path, overrides)
    print(difference(cfg) if diff else to_yaml(cfg), end="")

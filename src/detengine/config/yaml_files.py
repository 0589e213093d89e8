"""YAML on disk: read strictly, written for people."""

from pathlib import Path
from typing import Any

import yaml

from detengine.config.errors import ConfigError


class _StrictLoader(yaml.SafeLoader):
    """Plain data only; a key that stands twice in a mapping is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Checked before merge keys (<<) are resolved, which may well repeat a key.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        line_of: dict[Any, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in line_of:
                raise ConfigError(
                    f"{self.name}: {key.value} stands twice in one section, in lines "
                    f"{line_of[key.value]} and {line}; remove one of them"
                )
            line_of[key.value if isinstance(key, yaml.ScalarNode) else key] = line
        return node


class _Dumper(yaml.SafeDumper):
    """Writes a value that occurs twice out twice, and every text so that it reads back the same."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # PyYAML's other styles lose some line breaks, such as U+0085.
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


_Dumper.add_representer(str, _Dumper.represent_str)


def read_mapping(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file. Raises ConfigError, naming the file, if it has none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read ({reason}); expected a YAML file") from None
    return parse_mapping(text, str(path))


def parse_mapping(text: str, source: str, *, allow_aliases: bool = True) -> dict[str, Any]:
    """The keys and values of YAML. source: of the text, which ConfigError names if it has none.

    allow_aliases: False where the text is anyone's, since a few aliases of aliases are endless.
    """
    try:
        if not allow_aliases and _has_alias(text):
            raise ConfigError(f"{source}: has an alias (*name), which ours never have")
        loader = _StrictLoader(text)
        loader.name = source
        try:
            values = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: is no valid YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{source}: is no YAML of ours: nested too deeply") from None
    values = {} if values is None else values
    _raise_if_no_mapping(source, values, "the file")
    return values


def _has_alias(text: str) -> bool:
    return any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text))


def _raise_if_no_mapping(source: str, values: Any, place: str) -> None:
    if not isinstance(values, dict):
        raise ConfigError(
            f"{source}: {place} holds {type(values).__name__} {values!r:.60}; "
            "expected keys with values, such as CONVENTIONS: modern"
        )
    for key, value in values.items():
        if not isinstance(key, str):
            raise ConfigError(f"{source}: {place} has the key {key!r}; expected text, in quotes")
        if isinstance(value, dict):
            _raise_if_no_mapping(source, value, key)


def write_mapping(values: dict[str, Any]) -> str:
    """YAML with the keys in their order, lists on one line where they are short."""
    return yaml.dump(
        values, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True
    )

"""YAML on disk: read strictly, written for people."""

from pathlib import Path
from typing import Any

import yaml

from detengine.config.errors import ConfigError

_MERGE = "tag:yaml.org,2002:merge"


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

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Resolve merge keys (<<): a mapping's own keys win, then those of the mapping named first.

        In the place of PyYAML's, which in 6.0.4 takes other values than before and than YAML says.
        """
        entries, node.value = node.value, []  # empty, should it be merged into itself
        merged: list[yaml.MappingNode] = []
        for key, value in entries:
            if key.tag == _MERGE:
                merged += self._mappings_in(value)
        taken = dict[Any, tuple[yaml.Node, yaml.Node]]()
        for mapping in reversed(merged):
            self.flatten_mapping(mapping)
            taken.update(_by_name(mapping.value))
        taken.update(_by_name([entry for entry in entries if entry[0].tag != _MERGE]))
        node.value = list(taken.values())

    def _mappings_in(self, value: yaml.Node) -> list[yaml.MappingNode]:
        """What a merge key names: one mapping, or a list of them."""
        mappings = value.value if isinstance(value, yaml.SequenceNode) else [value]
        for each in mappings:
            if not isinstance(each, yaml.MappingNode):
                raise ConfigError(
                    f"{self.name}: << in line {value.start_mark.line + 1} merges what is no "
                    "mapping; expected *name of a section, or a list of such"
                )
        return list(mappings)


def _by_name(entries: list[tuple[yaml.Node, yaml.Node]]) -> dict[Any, tuple[yaml.Node, yaml.Node]]:
    """The entries by what their keys say; a key that is no scalar equals itself only."""
    return {
        (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else key: (key, value)
        for key, value in entries
    }


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

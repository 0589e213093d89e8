"""YAML on disk: read strictly, written for people."""

from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from detengine.config.errors import ConfigError
from detengine.disk.checksums import checksums_of, read_digests, sha256_of
from detengine.untrusted.excerpt import excerpt
from detengine.untrusted.yaml_text import why_unfit

_TOO_DEEP = "{}: is no YAML of ours: nested too deeply"
_MOST_LEVELS = 100
_MOST_VALUES = 100_000
_MERGE = "tag:yaml.org,2002:merge"


class _StrictLoader(yaml.SafeLoader):
    """Plain data only; a key that stands twice in a mapping is an error, and so is great depth."""

    level = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        # here, because PyYAML takes as many steps for each bracket as there are open ones
        if self.level > _MOST_LEVELS:
            raise ConfigError(_TOO_DEEP.format(self.name))
        self.level += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.level -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Checked before merge keys (<<) are resolved, which may well repeat a key.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        line_of: dict[Any, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in line_of:
                raise ConfigError(
                    f"{self.name}: {key.value:.80} stands twice in one section, in lines "
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
    return parse_mapping(read_yaml_text(path), str(path))


def read_yaml_text(path: Path) -> str:
    """The text of a YAML file. Raises ConfigError, naming it, if it cannot be read.

    Also where it is empty, as a copy that was cut off is, or not what its checksum says that a run
    has written.
    """
    try:
        _raise_if_not_as_written(path)
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read ({reason}); expected a YAML file") from None
    if not text.strip("\0\ufeff \t\r\n"):
        raise ConfigError(
            f"{path}: is empty: was its writing or copying cut off? Copy it again; a file that "
            "means all defaults says so: {}"
        )
    return text


def _raise_if_not_as_written(path: Path) -> None:
    """Raise ConfigError if a checksum lies beside the file, and is another's."""
    if not checksums_of(path).is_file():
        return
    try:
        is_whole = sha256_of(path) in read_digests(path)
    except ValueError:
        is_whole = False
    if not is_whole:
        raise ConfigError(
            f"{path}: is damaged, or was changed after a run wrote it: {path.name}.sha256 beside "
            "it is not its checksum. A run's checkpoints have its configuration, too. To change "
            f"it, copy it to another folder; where you trust it as it is, delete {path.name}.sha256"
        )


def parse_mapping(text: str, source: str, *, trusted: bool = True) -> dict[str, Any]:
    """The keys and values of YAML. source: of the text, which ConfigError names if it has none.

    trusted: False where the text is anybody's; then it may be neither endless nor very long.
    """
    try:
        if not trusted and (reason := why_unfit(text)):
            raise ConfigError(f"{source}: {reason}")
        loader = _StrictLoader(text)
        loader.name = source
        try:
            values = _values_of(loader)
        finally:
            loader.dispose()
    except (ConfigError, MemoryError):
        raise
    except RecursionError:
        raise ConfigError(_TOO_DEEP.format(source)) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: is no valid YAML: {error!s:.1000}") from None
    except Exception as error:  # a date without such a month, a number of 5000 digits, !!bool maybe
        raise ConfigError(f"{source}: is no valid YAML: {error!r:.200}") from None
    values = {} if values is None else values
    try:
        _raise_if_no_mapping(source, values, "the file")
    except RecursionError:  # by an alias, a mapping can be its own value
        raise ConfigError(_TOO_DEEP.format(source)) from None
    return values


def _values_of(loader: _StrictLoader) -> Any:
    node = loader.get_single_node()
    if node is None:
        return None
    if _size(loader, node, {}) > _MOST_VALUES:
        raise ConfigError(
            f"{loader.name}: its aliases (*name) stand for more than {_MOST_VALUES:,} values; "
            "write out what is meant"
        )
    return loader.construct_document(node)


def _size(loader: _StrictLoader, node: yaml.Node, known: dict[int, int]) -> int:
    """How many values there are once all aliases are written out. known: by a node's identity."""
    if id(node) not in known:
        known[id(node)] = 1  # while it is counted, should it be a part of itself
        parts = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            loader.flatten_mapping(node)
            parts = list(chain.from_iterable(node.value))
        known[id(node)] = 1 + sum(_size(loader, part, known) for part in parts)
    return known[id(node)]


def _raise_if_no_mapping(source: str, values: Any, place: str) -> None:
    if not isinstance(values, dict):
        raise ConfigError(
            f"{source}: {place:.80} holds {type(values).__name__} {excerpt(values)}; "
            "expected keys with values, such as CONVENTIONS: modern"
        )
    for key, value in values.items():
        if not isinstance(key, str):
            raise ConfigError(
                f"{source}: {place:.80} has the key {excerpt(key)}; expected text, in quotes"
            )
        if isinstance(value, dict):
            _raise_if_no_mapping(source, value, key)


def write_mapping(values: dict[str, Any]) -> str:
    """YAML with the keys in their order, lists on one line where they are short."""
    return yaml.dump(
        values, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True
    )

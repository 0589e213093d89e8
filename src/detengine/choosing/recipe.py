"""A recipe as it is put together: values by dotted key, each group with what it was chosen by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detengine.config.yaml_files import write_mapping

_WIDTH = 96


@dataclass
class Recipe:
    """values: by dotted key, in the order they are written. comments: by dotted key, of a value or
    of a section, lines that stand above it."""

    values: dict[str, Any] = field(default_factory=dict)
    comments: dict[str, list[str]] = field(default_factory=dict)

    def put(self, why: str, values: Mapping[str, Any]) -> None:
        """Set values; why, if it is not empty, stands above the first of them."""
        self.values.update(values)
        if why and values:
            self.comments.setdefault(next(iter(values)), []).extend(wrapped(why))

    def overrides(self) -> list[Any]:
        """As `load_config` takes them."""
        return [word for pair in self.values.items() for word in pair]

    def text(self, header: Sequence[str]) -> str:
        """The YAML file. header: lines of comment at its top."""
        nested: dict[str, Any] = {}
        for key, value in self.values.items():
            *above, name = key.split(".")
            section = nested
            for part in above:
                section = section.setdefault(part, {})
            section[name] = value
        lines = [f"# {part}".rstrip() for line in header for part in wrapped(line)]
        return "\n".join([*lines, *self._lines(nested, "")]) + "\n"

    def _lines(self, section: Mapping[str, Any], above: str) -> list[str]:
        indent = "  " * above.count(".")
        lines: list[str] = []
        for name, value in section.items():
            key = f"{above}{name}"
            lines += [f"{indent}# {line}" for line in self.comments.get(key, [])]
            if isinstance(value, dict) and not _is_short(value):
                lines += [f"{indent}{name}:", *self._lines(value, f"{key}.")]
            else:
                written = write_mapping({name: value}).strip()
                if written.startswith("{"):
                    written = written[1:-1]  # of {KEY: value}, as most values are written
                lines += [f"{indent}{line}" for line in written.splitlines()]
        return lines


def wrapped(text: str) -> list[str]:
    """Lines of at most _WIDTH characters."""
    lines = [""]
    for word in _on_one_line(text).split():
        if len(lines[-1]) + len(word) + 1 > _WIDTH:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _on_one_line(text: str) -> str:
    """Without what would end a comment: the names of the data's classes may hold anything."""
    return "".join(each if each.isprintable() else " " for each in text)


def _is_short(value: Mapping[str, Any]) -> bool:
    """Whether it is a data set's definition, which stands on its own."""
    return "FORMAT" in value

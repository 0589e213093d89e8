"""What is wrong with a configuration, in words: where, which key, what was given and expected."""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from detengine.config.contradictions import Contradiction
from detengine.config.schema import (
    CityscapesDefinition,
    CocoDefinition,
    Config,
    LvisDefinition,
    VocDefinition,
    YoloDefinition,
)
from detengine.untrusted.excerpt import excerpt, listed


class ConfigError(ValueError):
    """A configuration that cannot be read or holds a key or value it must not."""


_MOST_LINES = 20
_LONGEST_KEY = 200
_DEFINITIONS: dict[str, type[BaseModel]] = {
    "coco": CocoDefinition,
    "voc": VocDefinition,
    "cityscapes": CityscapesDefinition,
    "lvis": LvisDefinition,
    "yolo": YoloDefinition,
}


def explain(error: ValidationError, sources: Mapping[tuple[str, ...], str], whole: str) -> str:
    """One line for each mistake. sources: where each key was given. whole: named for the rest."""
    errors = error.errors(include_url=False)
    # Of a list that is too short pydantic names every item that is not there: the last one counts.
    last_lack = {each["loc"][:-1]: each for each in errors if _is_lack_of_item(each)}
    told = [
        each for each in errors if not _is_lack_of_item(each) or last_lack[each["loc"][:-1]] is each
    ]
    lines = [_line(each, sources, whole) for each in told[:_MOST_LINES]]
    if len(told) > _MOST_LINES:
        lines.append(f"{whole}: and {len(told) - _MOST_LINES} mistakes more")
    return "\n".join(lines)


def shortened(value: Any) -> str:
    """The value as text of at most 80 characters; of a mapping its keys."""
    return (
        _cut(f"a section with {listed(value)}", 80) if isinstance(value, dict) else excerpt(value)
    )


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."


def known_keys(
    section: type[BaseModel] = Config, above: str = ""
) -> Iterator[tuple[str, str | None]]:
    """The dotted keys of all options and sections, with the options' descriptions."""
    for name, field in section.model_fields.items():
        yield above + name, field.description
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from known_keys(field.annotation, f"{above}{name}.")


def _line(error: ErrorDetails, sources: Mapping[tuple[str, ...], str], whole: str) -> str:
    if error["type"] == "contradictions":
        return "\n".join(_told(each, sources, whole) for each in error["ctx"]["found"])
    path, item, definition = _split(error["loc"])
    key = ".".join(path)
    shown = _cut(key, _LONGEST_KEY)
    near = [at for at in sources if _on_one_path(at, path)]
    given_at = path if path in near or not near else near[0]
    source = sources.get(given_at, whole)
    known = dict(known_keys() if definition is None else known_keys(definition, _above(key)))
    if error["type"] == "extra_forbidden":
        key = max(key, ".".join(given_at), key=len)
        return f"{source}: unknown key {_cut(key, _LONGEST_KEY)}{_nearest(key, list(known))}"
    if error["type"] == "missing" and not _is_lack_of_item(error):
        beside = next((at for at in sources if at[:-1] == path[:-1]), path)
        return f"{sources.get(beside, whole)}: {shown} is missing, and has no default"
    if error["type"].startswith("union_tag"):
        given = _cut(str(error["input"].get("FORMAT", "missing")), 80)
        return f"{source}: {shown}.FORMAT is {given}; expected {_listed(_DEFINITIONS)}"
    if _is_lack_of_item(error):
        item = item[: item.rindex("[")]  # what is too short, not the item that it lacks
    given = shortened(error["input"])
    mistake = f"{source}: {shown}{item} is {given}; expected {_expected(error)}"
    description = known.get(key)
    return mistake if description is None else f"{mistake} ({' '.join(description.split())})"


def _is_lack_of_item(error: ErrorDetails) -> bool:
    return error["type"] == "missing" and isinstance(error["loc"][-1], int)


def _told(contradiction: Contradiction, sources: Mapping[tuple[str, ...], str], whole: str) -> str:
    """The contradiction with the givers of its keys; the rest of them are defaults."""
    given_in = [sources.get(tuple(key.split("."))) for key in contradiction.keys]
    givers = list(dict.fromkeys(giver for giver in given_in if giver is not None)) or [whole]
    return f"{' and '.join(givers)}: {contradiction.message}"


def _on_one_path(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether one key lies above the other, or is the same."""
    return all(a == b for a, b in zip(one, other, strict=False))


def _split(
    location: tuple[int | str, ...],
) -> tuple[tuple[str, ...], str, type[BaseModel] | None]:
    """The key's path, the item's place in its value such as [0], and the definition it is in.

    Within DATASETS.DEFINE.<name> pydantic puts the FORMAT between the name and the key.
    """
    definition = None
    if location[:2] == ("DATASETS", "DEFINE") and len(location) > 3:
        definition = _DEFINITIONS[str(location[3])]
        location = location[:3] + location[4:]
    path = tuple(part for part in location if isinstance(part, str))
    return path, "".join(f"[{part}]" for part in location if isinstance(part, int)), definition


def _above(key: str) -> str:
    return key[: key.rindex(".") + 1]


def _nearest(key: str, known: list[str]) -> str:
    if key in known:  # possible for a dotted key at the top level of a file
        return "; write its parts one below the other, as in SOLVER: {BASE_LR: 0.01}"
    sections = {each.rpartition(".")[0] for each in known}
    options = {each.casefold(): each for each in known if each not in sections}
    given = key.casefold()
    same_name = [each for each in options if each.split(".")[-1] == given.split(".")[-1]]
    nearest = get_close_matches(given, same_name, 1, 0.0) or get_close_matches(given, options, 1)
    return f"; did you mean {options[nearest[0]]}?" if nearest else ""


def _listed(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


_WORDS = {
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text; write it in quotes",
    "tuple_type": "a list, such as [a, b]",
    "dict_type": "keys with values",
    "model_type": "a section with keys",
    "too_short": "{min_length} or more items",
    "too_long": "{max_length} items at most",
    "finite_number": "a finite number",
    "model_attributes_type": "a section with keys",
}


def _expected(error: ErrorDetails) -> str:
    """pydantic's message as what was expected, e.g. 'greater than 0'."""
    if _is_lack_of_item(error):
        return f"{int(error['loc'][-1]) + 1} items"
    if error["type"] in _WORDS:
        return _WORDS[error["type"]].format(**error.get("ctx", {}))
    expected = error["msg"].removeprefix("Input should be ")
    return f"a number {expected}" if expected.startswith(("greater", "less")) else expected

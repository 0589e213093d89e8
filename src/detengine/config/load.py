"""From YAML files and KEY VALUE pairs to a Config, and back to YAML."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError

from detengine.config.conventions import defaults
from detengine.config.errors import ConfigError, explain, shortened
from detengine.config.no_effect import warn_of_keys_without_effect
from detengine.config.schema import Config, Conventions
from detengine.config.yaml_files import parse_mapping, read_mapping, write_mapping
from detengine.untrusted.addresses import without_secrets

COMMAND_LINE = "command line"

KeyPath = tuple[str, ...]


class Given(NamedTuple):
    """A value, and the file or command line it was given in."""

    value: Any
    source: str


def load_config(path: str | Path | None, overrides: Sequence[Any] = ()) -> Config:
    """Read a YAML file and the KEY VALUE pairs that win over it.

    path: None for the defaults alone. overrides: a flat list of dotted keys, each with its value,
    or that as text, e.g. ["SOLVER.BASE_LR", "0.01", "SOLVER.STEPS", (600, 800)]. A file may include
    another by `_BASE_: other.yaml`, relative to its own folder. A later one wins: the defaults of
    the resulting CONVENTIONS, the included file, the file, the overrides; data sets of
    DATASETS.DEFINE are merged key by key.
    A key without effect that is changed is said once a process, as a warning.
    Raises ConfigError, naming the file, the key, what was given and what was expected.
    """
    given = {} if path is None else _read_file(Path(path), including=())
    return _resolved(given | _read_pairs(overrides), COMMAND_LINE if path is None else str(path))


def parse_config(text: str, overrides: Sequence[Any] = (), *, source: str) -> Config:
    """As `load_config`, of a configuration's text, such as a checkpoint holds.

    source: where the text is from, for errors. It may include no file (_BASE_), since nothing in a
    file of weights may have others read. Raises ConfigError.
    """
    values = parse_mapping(text, source, trusted=False)
    if "_BASE_" in values:
        raise ConfigError(f"{source}: includes a file (_BASE_), which only a YAML file may do")
    given = {key: Given(value, source) for key, value in _flattened(values)}
    return _resolved(given | _read_pairs(overrides), source)


def _resolved(given: Mapping[KeyPath, Given], whole: str) -> Config:
    """What was given over the defaults of its CONVENTIONS. whole: as of `_build`."""
    conventions = given.get(("CONVENTIONS",), Given("maskrcnn_benchmark", "")).value
    # A name that is none is refused with all the other values, below.
    known = conventions in get_args(Conventions)
    values = defaults(conventions if known else "maskrcnn_benchmark")
    cfg = _build(values, given, whole)
    warn_of_keys_without_effect(cfg, {key: each.source for key, each in given.items()})
    return cfg


def replace(cfg: Config, changes: Mapping[str, Any]) -> Config:
    """The same configuration with other values. changes: by dotted key, whole values.

    Raises ConfigError as `load_config` does. CONVENTIONS changes alone, without its defaults.
    """
    given = {_path_of(key): Given(value, "replace") for key, value in changes.items()}
    return _build(cfg.model_dump(), given, "replace")


def recordable(cfg: Config) -> dict[str, Any]:
    """All values as they may be written down: of signed weights' address, without the signature."""
    values = cfg.model_dump()
    values["MODEL"]["WEIGHT"] = without_secrets(values["MODEL"]["WEIGHT"])
    return values


def to_yaml(cfg: Config) -> str:
    """All of the configuration as YAML, which `load_config` reads back to an equal one, but for a
    secret (`recordable`)."""
    return write_mapping(recordable(cfg))


def difference(cfg: Config) -> str:
    """The values that differ from the defaults of CONVENTIONS, as YAML that reads back equally."""
    changes = _difference(recordable(cfg), defaults(cfg.CONVENTIONS))
    return write_mapping({"CONVENTIONS": cfg.CONVENTIONS} | changes)


def _difference(values: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    changes = {key: value for key, value in values.items() if value != reference.get(key)}
    return {
        key: _difference(value, reference.get(key, {})) if isinstance(value, dict) else value
        for key, value in changes.items()
    }


def flattened(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The values of nested sections by dotted key; an empty section is a value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flattened(value, f"{above}{key}.")
        else:
            flat[f"{above}{key}"] = value
    return flat


def _read_file(path: Path, including: tuple[Path, ...]) -> dict[KeyPath, Given]:
    """The values of a file and of those it includes. including: the files that led here."""
    resolved = path.resolve()
    if resolved in including:
        chain = " -> ".join(each.name for each in (*including, resolved))
        raise ConfigError(f"{path}: _BASE_ includes the file itself: {chain}")
    values = read_mapping(path)
    base = values.pop("_BASE_", None)
    if base is not None and not isinstance(base, str):
        raise ConfigError(
            f"{path}: _BASE_ is {shortened(base)}; expected the path of one YAML file"
        )
    given = _read_file(path.parent / base, (*including, resolved)) if base is not None else {}
    return given | {key: Given(value, str(path)) for key, value in _flattened(values)}


def _flattened(values: Mapping[str, Any], above: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flattened(value, (*above, key))
        else:
            yield (*above, key), value


def _read_pairs(overrides: Sequence[Any]) -> dict[KeyPath, Given]:
    if len(overrides) % 2:
        raise ConfigError(
            f"{COMMAND_LINE}: {overrides[-1]!r} has no value; expected pairs of KEY VALUE, "
            "such as SOLVER.BASE_LR 0.01"
        )
    given = {}
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        if not isinstance(key, str):
            raise ConfigError(
                f"{COMMAND_LINE}: {key!r} stands where a key is expected, such as SOLVER.BASE_LR; "
                "the list is KEY VALUE KEY VALUE ..."
            )
        nested = {key: str(value) if isinstance(value, Path) else value}
        for path, each in _flattened(nested):
            given[(*_path_of(path[0]), *path[1:])] = Given(each, COMMAND_LINE)
    return given


def _path_of(key: str) -> KeyPath:
    return tuple(key.split("."))


def _build(values: dict[str, Any], given: Mapping[KeyPath, Given], whole: str) -> Config:
    """Put what was given into `values`, every option's default, and check all of it.

    whole: what an error names where single values are right but do not fit together.
    """
    for path, each in given.items():
        _put(values, path, each)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        sources = {path: each.source for path, each in given.items()}
        raise ConfigError(explain(error, sources, whole)) from None


def _put(values: dict[str, Any], path: KeyPath, given: Given) -> None:
    section: Any = values
    for depth, key in enumerate(path[:-1], start=1):
        section = section.setdefault(key, {})
        if not isinstance(section, dict):
            raise ConfigError(
                f"{given.source}: {'.'.join(path):.200} cannot be set, because "
                f"{'.'.join(path[:depth]):.200} is {shortened(section)} and has no keys"
            )
    # A section whose keys are all commented out is read as null, and gives nothing.
    if not (given.value is None and isinstance(section.get(path[-1]), dict)):
        section[path[-1]] = given.value

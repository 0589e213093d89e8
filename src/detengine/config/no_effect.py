"""Keys that the predecessor's files may have and that change nothing here: said, once each."""

import logging
from collections.abc import Iterator, Mapping

from pydantic import BaseModel

from detengine.config.field_types import NoEffect
from detengine.config.schema import Config

_logger = logging.getLogger("detengine.config")


def keys_without_effect(
    section: type[BaseModel] = Config, above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str]]:
    """The path of each such key, and why it has no effect."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys_without_effect(field.annotation, (*above, name))
        for marker in field.metadata:
            if isinstance(marker, NoEffect):
                yield (*above, name), marker.why


def warn_of_keys_without_effect(cfg: Config, sources: Mapping[tuple[str, ...], str]) -> None:
    """Log a warning for each such key that was given another value than its default.

    sources: where each given key was given, by its path. A key is warned of once a process.
    """
    defaults = Config()
    for path, why in keys_without_effect():
        if path in sources and _value(cfg, path) != _value(defaults, path):
            _warn_once(".".join(path), sources[path], why)


def _value(section: BaseModel, path: tuple[str, ...]) -> object:
    value: object = section
    for name in path:
        value = getattr(value, name)
    return value


_warned: set[str] = set()


def _warn_once(key: str, source: str, why: str) -> None:
    if key not in _warned:
        _warned.add(key)
        _logger.warning("%s: %s has no effect: %s", source, key, why)

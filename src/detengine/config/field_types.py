"""The kinds of values in a configuration: numbers with their ranges, switches, lists.

All but plain `str` also take their value as text, as KEY VALUE pairs, the predecessor's tuples
("(60000, 80000)") and YAML's exponents without a point ("1e-3") give it. Lists become tuples.
"""

import ast
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from detengine.untrusted.yaml_text import why_unfit

T = TypeVar("T")


class Section(BaseModel):
    """A part of the configuration: frozen, no other keys than its own, no silent conversions.

    The docstring under a key is its description.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


@dataclass(frozen=True)
class Unit:
    """Marks what a key's numbers count or measure, for the reference page."""

    name: str


@dataclass(frozen=True)
class NoEffect:
    """Marks a key that the predecessor's files may have and that changes nothing here.

    why: a clause for the reference page and for the warning when a file changes the key.
    """

    why: str


def value_of_text(value: Any) -> Any:
    """What a text stands for, as a Python literal or else as YAML; any other value stays itself."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: nested deep
            value = _yaml_value(value)
    return tuple(value) if isinstance(value, list) else value


def _yaml_value(text: str) -> Any:
    try:
        return text if why_unfit(text) else yaml.safe_load(text)
    except MemoryError:
        raise
    except Exception:  # PyYAML raises anything for what is no date, no number, no switch
        return text


def _none_of_text(value: Any) -> Any:
    return None if value in ("None", "null") else value


_FROM_TEXT = BeforeValidator(value_of_text)

Switch = Annotated[bool, _FROM_TEXT]

LARGEST_INTEGER = 10**9
"""Far beyond what makes sense anywhere, and far below what torch can no longer count."""
LARGEST_SIZE = 2**16
"""Of what memory is taken for: a slip of the finger is refused here, and not by the allocator."""
_FEW = 2**10

Integer = Annotated[int, Field(ge=-LARGEST_INTEGER, le=LARGEST_INTEGER), _FROM_TEXT]
Count = Annotated[int, Field(ge=0, le=LARGEST_INTEGER), _FROM_TEXT]
Size = Annotated[int, Field(ge=1, le=LARGEST_INTEGER), _FROM_TEXT]
Seed = Annotated[int, Field(ge=0, lt=2**63), _FROM_TEXT]
SizeOrUnset = Annotated[int, Field(ge=-1, le=LARGEST_SIZE), _FROM_TEXT]
Few = Annotated[int, Field(ge=1, le=_FEW), _FROM_TEXT]
FewOrNone = Annotated[int, Field(ge=0, le=_FEW), _FROM_TEXT]
Stages = Annotated[int, Field(ge=-LARGEST_INTEGER, le=5), _FROM_TEXT, Unit("stages")]

Width = Annotated[int, Field(ge=1, le=LARGEST_SIZE), _FROM_TEXT]
Pixels = Annotated[Width, Unit("pixels")]
PixelsOrNone = Annotated[int, Field(ge=0, le=LARGEST_SIZE), _FROM_TEXT, Unit("pixels")]
Channels = Annotated[Width, Unit("channels")]
Classes = Annotated[int, Field(ge=2, le=LARGEST_SIZE), _FROM_TEXT, Unit("classes")]
Images = Annotated[Width, Unit("images")]
Bins = Annotated[Few, Unit("bins")]
Layers = Annotated[FewOrNone, Unit("layers")]
Boxes = Annotated[Size, Unit("boxes")]
BoxesOrAll = Annotated[Count, Unit("boxes")]

Number = Annotated[float, Field(allow_inf_nan=False), _FROM_TEXT]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), _FROM_TEXT]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), _FROM_TEXT]
Fraction = Annotated[float, Field(ge=0, le=1), _FROM_TEXT, Unit("fraction")]
IoU = Annotated[float, Field(ge=0, le=1), _FROM_TEXT, Unit("IoU")]
BelowOne = Annotated[float, Field(ge=0, lt=1), _FROM_TEXT]

Several = Annotated[tuple[T, ...], _FROM_TEXT]
OneOrMore = Annotated[tuple[T, ...], Field(min_length=1), _FROM_TEXT]
Pair = Annotated[tuple[T, T], _FROM_TEXT]
Triple = Annotated[tuple[T, T, T], _FROM_TEXT]
Quadruple = Annotated[tuple[T, T, T, T], _FROM_TEXT]
Named = Annotated[dict[str, T], _FROM_TEXT]
ExpectedResult = Annotated[tuple[str, str, Pair[Number]], _FROM_TEXT]

Maybe = Annotated[T | None, _FROM_TEXT]
MaybeText = Annotated[str | None, BeforeValidator(_none_of_text)]

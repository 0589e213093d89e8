"""The mobile nets of the FBNet family as tables, and the reader of a user's own.

Sources: FBNet (arXiv 1812.03443), ChamNet (1812.08934), MobileNetV2 (1801.04381); the numbers are
those of the predecessor's fbnet_modeldef.py.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from detengine.modeling.fbnet_blocks import PRIMITIVES

PARTS = ("backbone", "rpn", "bbox", "mask", "kpts", "head")


class Block(NamedTuple):
    """One block of a net, before its width is scaled.

    name: the predecessor's, xif<stage>_<place in the stage>. expansion: the inner width by the
    input's, where the primitive does not set it. stride: a negative one enlarges the map.
    """

    name: str
    primitive: str
    expansion: float
    channels: int
    stride: int


class First(NamedTuple):
    """The convolution before all blocks."""

    channels: int
    stride: int
    kernel: int = 3


@dataclass(frozen=True)
class Architecture:
    """A net of blocks in stages, and which stages serve as which part of a detector.

    parts: the stages of each of backbone, rpn, bbox, mask, kpts, and of head, which stands for any
    region head that is not there. last_channels: of the layer that may end a region head.
    rpn_stride: the stride the net is made for, in pixels; None: any.
    """

    first: First
    stages: tuple[tuple[Block, ...], ...]
    parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    last_channels: int = 0
    rpn_stride: int | None = None

    def stages_of(self, part: str) -> list[tuple[Block, ...]]:
        """The blocks of each stage of a part; none where the architecture does not have it.

        The backbone is all stages but the last, and a region head is "head", where nothing else
        is said.
        """
        if part == "backbone":
            indices = self.parts.get(part, tuple(range(len(self.stages) - 1)))
        else:
            indices = self.parts.get(part, self.parts.get("head", ()) if part != "rpn" else ())
        return [self.stages[index] for index in indices]


_Row = tuple[float, int, int, int]
"""Blocks one behind the other: expansion, channels, how many, the stride of the first."""


def _stage(index: int, primitives: Sequence[str], rows: Sequence[_Row]) -> tuple[Block, ...]:
    each = [
        (expansion, channels, stride if repeat == 0 else 1)
        for expansion, channels, count, stride in rows
        for repeat in range(count)
    ]
    return tuple(
        Block(f"xif{index}_{place}", primitive, *block)
        for place, (primitive, block) in enumerate(zip(primitives, each, strict=True))
    )


def _stages(*stages: Sequence[tuple[str, float, int, int, int]]) -> tuple[tuple[Block, ...], ...]:
    """From rows of each stage with the primitive of their blocks before them."""
    return tuple(
        _stage(index, [row[0] for row in rows for _ in range(row[3])], [row[1:] for row in rows])
        for index, rows in enumerate(stages)
    )


ARCHITECTURES = {
    "default": Architecture(
        First(32, 2),
        _stages(
            [("ir_k3", 1, 16, 1, 1)],
            [("ir_k3", 6, 24, 2, 2)],
            [("ir_k3", 6, 32, 3, 2)],
            [("ir_k3", 6, 64, 4, 2), ("ir_k3", 6, 96, 3, 1)],
            [("ir_k3", 4, 160, 1, 2), ("ir_k3", 6, 160, 2, 1), ("ir_k3", 6, 240, 1, 1)],
            [("ir_k3", 6, 96, 3, 1)],
            [("ir_k3", 4, 160, 1, 1), ("ir_k3", 6, 160, 3, 1), ("ir_k3", 3, 80, 1, -2)],
        ),
        {"backbone": (0, 1, 2, 3), "rpn": (5,), "bbox": (4,), "mask": (6,)},
    ),
    "xirb16d_dsmask": Architecture(
        First(16, 2),
        _stages(
            [("ir_k3", 1, 16, 1, 1)],
            [("ir_k3", 6, 32, 2, 2)],
            [("ir_k3", 6, 48, 3, 2)],
            [("ir_k3", 6, 96, 4, 2), ("ir_k3", 6, 128, 3, 1)],
            [("ir_k3", 4, 128, 1, 2), ("ir_k3", 6, 128, 2, 1), ("ir_k3", 6, 160, 1, 1)],
            [
                ("ir_k3", 4, 128, 1, 2),
                ("ir_k3", 6, 128, 2, 1),
                ("ir_k3", 6, 128, 1, -2),
                ("ir_k3", 3, 64, 1, -2),
            ],
            [("ir_k3", 6, 128, 3, 1)],
        ),
        {"backbone": (0, 1, 2, 3), "rpn": (6,), "bbox": (4,), "mask": (5,)},
    ),
    "mobilenet_v2": Architecture(
        First(32, 2),
        _stages(
            [("ir_k3", 1, 16, 1, 1)],
            [("ir_k3", 6, 24, 2, 2)],
            [("ir_k3", 6, 32, 3, 2)],
            [("ir_k3", 6, 64, 4, 2), ("ir_k3", 6, 96, 3, 1)],
            [("ir_k3", 6, 160, 3, 1), ("ir_k3", 6, 320, 1, 1)],
        ),
        {"backbone": (0, 1, 2, 3), "bbox": (4,)},
    ),
    "cham_v1a": Architecture(
        First(32, 2),
        _stages(
            [("ir_k3", 1, 24, 1, 1)],
            [("ir_k7", 4, 48, 2, 2)],
            [("ir_k3", 7, 64, 5, 2)],
            [("ir_k5", 12, 56, 7, 2), ("ir_k3", 8, 88, 5, 1)],
            [("ir_k3", 7, 152, 4, 2), ("ir_k3", 10, 104, 1, 1)],
            [("ir_k3", 8, 88, 3, 1)],
        ),
        {"backbone": (0, 1, 2, 3), "rpn": (5,), "bbox": (4,)},
    ),
    "cham_v2": Architecture(
        First(32, 2),
        _stages(
            [("ir_k3", 1, 24, 1, 1)],
            [("ir_k5", 8, 32, 4, 2)],
            [("ir_k7", 5, 48, 6, 2)],
            [("ir_k5", 9, 56, 3, 2), ("ir_k3", 6, 56, 6, 1)],
            [("ir_k3", 2, 160, 6, 2), ("ir_k3", 6, 112, 1, 1)],
            [("ir_k3", 6, 56, 1, 1)],
        ),
        {"backbone": (0, 1, 2, 3), "rpn": (5,), "bbox": (4,)},
    ),
}


def read_architecture(text: str) -> Architecture:
    """The architecture that a json text defines, in the predecessor's form.

    {"first": [channels, stride, kernel (3)], "block_cfg": {"stages": stages of rows [expansion,
    channels, how many, stride], "last": [channels, ignored], "backbone": [stages], ...},
    "block_op_type": for each stage the primitive of each block, "rpn_stride": pixels}. All but
    "block_op_type" may stand in "block_cfg" or beside it.
    Raises ValueError, naming the place, for anything else.
    """
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid json: {error}; write it with json.dumps") from None
    if not isinstance(given, dict) or not isinstance(given.get("block_cfg", {}), dict):
        raise ValueError(f"{text[:80]} is not a json object with an object block_cfg in it")
    flat = {key: value for key, value in given.items() if key != "block_cfg"}
    flat |= given.get("block_cfg", {})
    try:
        definition = _Definition.model_validate_json(json.dumps(flat), strict=True)
    except ValidationError as error:
        lines = [_in_words(each) for each in error.errors(include_url=False)]
        raise ValueError("; ".join(lines)) from None
    return definition.to_architecture()


_Stage = Annotated[int, Field(ge=0)]
_Size = Annotated[int, Field(ge=1)]
_Expansion = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_CheckedRow = tuple[_Expansion, _Size, _Size, Literal[1, 2, 4, -1, -2, -4]]
_Several = Annotated[list[_Stage], Field(min_length=1)]


class _Definition(BaseModel):
    """The predecessor's form of an architecture; see `read_architecture`."""

    model_config = ConfigDict(extra="forbid")

    first: Annotated[list[_Size], Field(min_length=2, max_length=3)]
    stages: Annotated[list[Annotated[list[_CheckedRow], Field(min_length=1)]], Field(min_length=1)]
    block_op_type: list[list[str]]
    last: tuple[_Stage, float] = (0, 0.0)
    backbone: _Several | None = None
    rpn: _Several | None = None
    bbox: _Several | None = None
    mask: _Several | None = None
    kpts: _Several | None = None
    head: _Several | None = None
    rpn_stride: _Size | None = None

    def to_architecture(self) -> Architecture:
        """Raises ValueError for parts that do not fit together."""
        counts = [sum(count for _, _, count, _ in rows) for rows in self.stages]
        given = [len(names) for names in self.block_op_type]
        if counts != given:
            raise ValueError(
                f"stages hold {counts} blocks, but block_op_type names {given}; give one primitive "
                "for each block of each stage"
            )
        _raise_if_unknown(self.block_op_type)
        return Architecture(
            First(*self.first),
            tuple(
                _stage(index, primitives, rows)
                for index, (primitives, rows) in enumerate(
                    zip(self.block_op_type, self.stages, strict=True)
                )
            ),
            {name: self._part(name) for name in PARTS if getattr(self, name) is not None},
            self.last[0],
            self.rpn_stride,
        )

    def _part(self, name: str) -> tuple[int, ...]:
        indices: list[int] = getattr(self, name)
        if max(indices) >= len(self.stages):
            raise ValueError(
                f"{name} is made of the stages {indices}, but there are only the stages 0 to "
                f"{len(self.stages) - 1}; change it, or add what is missing"
            )
        return tuple(sorted(set(indices)))


def _raise_if_unknown(primitives: Sequence[Sequence[str]]) -> None:
    for index, names in enumerate(primitives):
        for name in names:
            if name not in PRIMITIVES:
                raise ValueError(
                    f"block_op_type.{index} names {name!r}{_nearest(name, PRIMITIVES)}; the "
                    f"primitives are {', '.join(PRIMITIVES)}"
                )


def _in_words(error: ErrorDetails) -> str:
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{where} is not known{_nearest(where, _Definition.model_fields)}"
    if error["type"] == "missing":
        return f"{where} is missing"
    return f"{where} is {str(error['input'])[:80]}, but {_lower_first(error['msg'])}"


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _nearest(name: str, known: Iterable[str]) -> str:
    nearest = get_close_matches(name, known, 1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""

"""Keypoints that move with their image through `transforms.v2`.

As torchvision's own KeyPoints do, number by number; those are there from 0.23 on, and take this
file's place once no older torchvision is supported.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F


class Points(tv_tensors.TVTensor):  # type: ignore[misc]  # torchvision has no types
    """float[..., 2], (x, y) of pixels: the last one of a row is at its width - 1.

    canvas_size: (height, width) of the image.
    """

    canvas_size: tuple[int, int]

    @classmethod
    def of(cls, points: Tensor, canvas_size: tuple[int, int]) -> "Points":
        placed = points.as_subclass(cls)
        placed.canvas_size = canvas_size
        return placed

    @classmethod
    def wrap(cls, tensor: Tensor, like: "Points", **_: Any) -> "Points":
        """Give a tensor the canvas size of the points `like`."""
        return cls.of(tensor, like.canvas_size)


def resized_size(
    canvas_size: tuple[int, int], size: Sequence[int] | None, max_size: int | None
) -> tuple[int, int]:
    """(height, width) by torchvision's own rule for one number, for None and for max_size."""
    nothing = tv_tensors.BoundingBoxes(torch.empty(0, 4), format="XYXY", canvas_size=canvas_size)
    height, width = F.resize(nothing, size, max_size=max_size).canvas_size
    return height, width


def padded_size(
    canvas_size: tuple[int, int], padding: int | Sequence[int], padding_mode: str
) -> tuple[int, int, tuple[int, int]]:
    """What comes left and on top, and the new (height, width).

    padding: one number, two (left and right, top and bottom) or four (left, top, right, bottom).
    Raises ValueError for another mode than constant: it would repeat objects.
    """
    if padding_mode != "constant":
        raise ValueError(
            f"padding with the mode {padding_mode!r} repeats objects of which annotations know "
            "nothing; expected 'constant'"
        )
    sides = [padding] if isinstance(padding, int) else list(padding)
    left, top, right, bottom = (sides * 4)[:4]
    return left, top, (canvas_size[0] + top + bottom, canvas_size[1] + left + right)


@F.register_kernel("resize", Points)  # type: ignore[untyped-decorator]
def _resize(
    points: Points, size: Sequence[int] | None, max_size: int | None = None, **_: Any
) -> Points:
    old, new = points.canvas_size, resized_size(points.canvas_size, size, max_size)
    scale = torch.tensor([new[1] / old[1], new[0] / old[0]])
    return Points.of((points * scale).to(points.dtype), new)


@F.register_kernel("horizontal_flip", Points)  # type: ignore[untyped-decorator]
def _horizontal_flip(points: Points) -> Points:
    x, y = points.unbind(-1)
    return Points.of(torch.stack([points.canvas_size[1] - 1 - x, y], dim=-1), points.canvas_size)


@F.register_kernel("vertical_flip", Points)  # type: ignore[untyped-decorator]
def _vertical_flip(points: Points) -> Points:
    x, y = points.unbind(-1)
    return Points.of(torch.stack([x, points.canvas_size[0] - 1 - y], dim=-1), points.canvas_size)


@F.register_kernel("crop", Points)  # type: ignore[untyped-decorator]
def _crop(points: Points, top: int, left: int, height: int, width: int) -> Points:
    return Points.of(points - torch.tensor([left, top], dtype=points.dtype), (height, width))


@F.register_kernel("pad", Points)  # type: ignore[untyped-decorator]
def _pad(
    points: Points, padding: int | Sequence[int], padding_mode: str = "constant", **_: Any
) -> Points:
    left, top, size = padded_size(points.canvas_size, padding, padding_mode)
    return Points.of(points + torch.tensor([left, top], dtype=points.dtype), size)

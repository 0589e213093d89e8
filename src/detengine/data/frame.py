"""The geometry of a sample: one affine map that any transform of `transforms.v2` composes.

Masks are never moved. A `Frame` travels through the transforms beside the image, and tells
afterwards where each of the new image's points lies in the stored one.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from detengine.structures.masks import Affine


class Frame(tv_tensors.TVTensor):  # type: ignore[misc]  # torchvision has no types
    """float64[6], a map (a, b, c, d, e, f) from the current image's points to the stored image's.

    As in RunLengthMasks: x' = a x + b y + c, y' = d x + e y + f, in continuous coordinates.
    canvas_size: (height, width) of the current image.
    """

    canvas_size: tuple[int, int]

    @classmethod
    def of(cls, canvas_size: tuple[int, int]) -> "Frame":
        """The frame of an image that nothing has been done to."""
        identity = torch.tensor([1, 0, 0, 0, 1, 0], dtype=torch.float64)
        return cls.wrap(identity, canvas_size=canvas_size)

    @classmethod
    def wrap(
        cls,
        tensor: Tensor,
        like: Any = None,
        *,
        canvas_size: tuple[int, int] | None = None,
        **_: Any,
    ) -> "Frame":
        """Give a tensor its canvas size; where it is not named, that of the frame `like`."""
        frame = tensor.as_subclass(cls)
        frame.canvas_size = like.canvas_size if canvas_size is None else canvas_size
        return frame

    def affine(self) -> Affine:
        a, b, c, d, e, f = self.tolist()
        return (a, b, c, d, e, f)

    def is_mirrored(self) -> bool:
        """Whether left and right have changed places: after one flip, not after two."""
        a, b, _, d, e, _ = self.affine()
        return a * e - b * d < 0

    def _moved(
        self, scale: tuple[float, float], shift: tuple[float, float], size: tuple[int, int]
    ) -> "Frame":
        """The frame of a new image whose point (x, y) is the current (x * scale + shift)."""
        a, b, c, d, e, f = self.affine()
        (scale_x, scale_y), (x, y) = scale, shift
        moved = (
            a * scale_x,
            b * scale_y,
            a * x + b * y + c,
            d * scale_x,
            e * scale_y,
            d * x + e * y + f,
        )
        return Frame.wrap(torch.tensor(moved, dtype=torch.float64), canvas_size=size)


@F.register_kernel("resize", Frame)  # type: ignore[untyped-decorator]
def _resize(
    frame: Frame, size: Sequence[int] | None, max_size: int | None = None, **_: Any
) -> Frame:
    height, width = frame.canvas_size
    no_points = tv_tensors.KeyPoints(torch.empty(0, 2), canvas_size=frame.canvas_size)
    # torchvision's own rule for one number, for None and for max_size
    new_height, new_width = F.resize(no_points, size, max_size=max_size).canvas_size
    return frame._moved(
        (width / new_width, height / new_height), (0.0, 0.0), (new_height, new_width)
    )


@F.register_kernel("horizontal_flip", Frame)  # type: ignore[untyped-decorator]
def _horizontal_flip(frame: Frame) -> Frame:
    return frame._moved((-1.0, 1.0), (frame.canvas_size[1], 0.0), frame.canvas_size)


@F.register_kernel("vertical_flip", Frame)  # type: ignore[untyped-decorator]
def _vertical_flip(frame: Frame) -> Frame:
    return frame._moved((1.0, -1.0), (0.0, frame.canvas_size[0]), frame.canvas_size)


@F.register_kernel("crop", Frame)  # type: ignore[untyped-decorator]
def _crop(frame: Frame, top: int, left: int, height: int, width: int) -> Frame:
    return frame._moved((1.0, 1.0), (left, top), (height, width))


@F.register_kernel("pad", Frame)  # type: ignore[untyped-decorator]
def _pad(
    frame: Frame, padding: int | Sequence[int], padding_mode: str = "constant", **_: Any
) -> Frame:
    corner = tv_tensors.KeyPoints([[0.0, 0.0]], canvas_size=frame.canvas_size)
    # torchvision's own reading of one, two or four numbers
    padded = F.pad(corner, padding, padding_mode=padding_mode)
    left, top = padded[0].tolist()
    return frame._moved((1.0, 1.0), (-left, -top), padded.canvas_size)


def _refuse(frame: Frame, *_: Any, **__: Any) -> NoReturn:
    raise TypeError(
        "this transform moves the image in a way that masks and keypoints cannot follow. "
        "Those that can: resize, crop, pad, horizontal and vertical flip."
    )


# v2 passes over a type that has no kernel, so that masks would silently stay where they were
for _name in (
    "affine",
    "center_crop",
    "elastic",
    "five_crop",
    "perspective",
    "resized_crop",
    "rotate",
    "ten_crop",
):
    F.register_kernel(_name, Frame)(_refuse)

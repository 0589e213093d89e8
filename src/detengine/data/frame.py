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

from detengine.data.points import padded_size, resized_size
from detengine.structures.masks import IDENTITY, Affine, compose


class Frame(tv_tensors.TVTensor):  # type: ignore[misc]  # torchvision has no types
    """float64[4], the `Affine` from the current image's points to the stored image's.

    canvas_size: (height, width) of the current image.
    """

    canvas_size: tuple[int, int]

    @classmethod
    def of(cls, canvas_size: tuple[int, int]) -> "Frame":
        """The frame of an image that nothing has been done to."""
        return cls.wrap(torch.tensor(IDENTITY, dtype=torch.float64), canvas_size=canvas_size)

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
        scale_x, shift_x, scale_y, shift_y = self.tolist()
        return (scale_x, shift_x, scale_y, shift_y)

    def flips(self) -> tuple[bool, bool]:
        """Whether it is mirrored left to right, and whether top to bottom; two flips are none."""
        scale_x, _, scale_y, _ = self.affine()
        return scale_x < 0, scale_y < 0

    def is_mirrored(self) -> bool:
        """Whether left and right have changed places: after one flip, not after two."""
        left_to_right, top_to_bottom = self.flips()
        return left_to_right != top_to_bottom

    def moved(self, to_current: Affine, size: tuple[int, int]) -> "Frame":
        """The frame of a new image of this size. to_current maps its points to the current ones."""
        affine = torch.tensor(compose(self.affine(), to_current), dtype=torch.float64)
        return Frame.wrap(affine, canvas_size=size)


@F.register_kernel("resize", Frame)  # type: ignore[untyped-decorator]
def _resize(
    frame: Frame, size: Sequence[int] | None, max_size: int | None = None, **_: Any
) -> Frame:
    height, width = frame.canvas_size
    new_height, new_width = resized_size(frame.canvas_size, size, max_size)
    return frame.moved((width / new_width, 0.0, height / new_height, 0.0), (new_height, new_width))


@F.register_kernel("horizontal_flip", Frame)  # type: ignore[untyped-decorator]
def _horizontal_flip(frame: Frame) -> Frame:
    return frame.moved((-1.0, frame.canvas_size[1], 1.0, 0.0), frame.canvas_size)


@F.register_kernel("vertical_flip", Frame)  # type: ignore[untyped-decorator]
def _vertical_flip(frame: Frame) -> Frame:
    return frame.moved((1.0, 0.0, -1.0, frame.canvas_size[0]), frame.canvas_size)


@F.register_kernel("crop", Frame)  # type: ignore[untyped-decorator]
def _crop(frame: Frame, top: int, left: int, height: int, width: int) -> Frame:
    return frame.moved((1.0, left, 1.0, top), (height, width))


@F.register_kernel("pad", Frame)  # type: ignore[untyped-decorator]
def _pad(
    frame: Frame, padding: int | Sequence[int], padding_mode: str = "constant", **_: Any
) -> Frame:
    left, top, size = padded_size(frame.canvas_size, padding, padding_mode)
    return frame.moved((1.0, -left, 1.0, -top), size)


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

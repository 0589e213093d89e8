"""What a data set gives for one image, and what the loader hands to the model."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from detengine.structures.target import Target


class Sample(NamedTuple):
    """One image with its annotations. image: uint8[3, H, W], RGB."""

    image: Tensor
    target: Target
    image_id: int


class Batch(NamedTuple):
    """The images of one step. images: list of uint8[3, H, W], RGB, of any sizes."""

    images: list[Tensor]
    targets: list[Target]
    image_ids: list[int]

    def to(self, device: torch.device) -> "Batch":
        """The same batch on the device; the targets' sizes stay on the CPU, where they are read.

        One whose first image is there is left as it is: all of it is.
        """
        if self.images and _is_on(self.images[0], device):
            return self
        return Batch(
            [image.to(device, non_blocking=True) for image in self.images],
            [{key: _move(key, value, device) for key, value in t.items()} for t in self.targets],
            self.image_ids,
        )

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep its memory on the device until the stream has done what it was asked by then.

        For a batch that was copied on another stream (see torch.Tensor.record_stream).
        """
        for image in self.images:
            image.record_stream(stream)
        for target in self.targets:
            for key, value in target.items():
                if _travels(key, value) and hasattr(value, "record_stream"):
                    value.record_stream(stream)


_STAY_ON_THE_CPU = frozenset({"image_size", "original_size"})


def _is_on(image: Tensor, device: torch.device) -> bool:
    here = image.device
    return here.type == device.type and device.index in (None, here.index)


def _travels(key: str, value: Any) -> bool:
    return key not in _STAY_ON_THE_CPU and hasattr(value, "to")  # not an image_id of torchvision's


def _move(key: str, value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if _travels(key, value) else value

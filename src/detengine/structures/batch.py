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
        """The same batch on the device; the targets' sizes stay on the CPU, where they are read."""
        return Batch(
            [image.to(device, non_blocking=True) for image in self.images],
            [{key: _move(key, value, device) for key, value in t.items()} for t in self.targets],
            self.image_ids,
        )


_STAY_ON_THE_CPU = frozenset({"image_size", "original_size"})


def _move(key: str, value: Any, device: torch.device) -> Any:
    stays = key in _STAY_ON_THE_CPU or not hasattr(value, "to")  # an image_id of torchvision's
    return value if stays else value.to(device, non_blocking=True)

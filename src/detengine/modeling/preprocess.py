"""From the loader's uint8 images to the padded float batch a trunk takes, on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Preprocess(nn.Module):
    """Bring into the range, subtract the mean, divide by the deviation, pad with zeros to one size.

    mean, std: of RGB in [0, 1], or with to_bgr255 of BGR in 0 to 255, in these orders.
    size_divisible: the batch's height and width are multiples of it. For RGB the arithmetic is that
    of torchvision's GeneralizedRCNNTransform on uint8 / 255, to the last bit; nothing is resized,
    that is the loader's work.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        size_divisible: int,
        *,
        to_bgr255: bool = False,
    ) -> None:
        super().__init__()
        self.to_bgr255 = to_bgr255
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.size_divisible = size_divisible

    def forward(self, images: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """The batch, float[N, 3, H', W'], and each image's (height, width).

        images: uint8[3, H, W] of any sizes. Raises ValueError for any other dtype or shape.
        """
        for index, image in enumerate(images):
            _raise_if_not_rgb(image, index)
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        height, width = (
            _round_up(max(side), self.size_divisible) for side in zip(*sizes, strict=True)
        )
        batch = self.mean.new_zeros(len(images), 3, height, width)
        for padded, image, (h, w) in zip(batch, images, sizes, strict=True):
            inside = padded[:, :h, :w]
            if self.to_bgr255:
                inside.copy_(image.flip(0))
            else:
                inside.copy_(image).div_(255)
            inside.sub_(self.mean).div_(self.std)
        return batch, sizes


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _raise_if_not_rgb(image: Tensor, index: int) -> None:
    if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(
            f"image {index} of the batch is {str(image.dtype).removeprefix('torch.')}"
            f"{list(image.shape)}, but the model takes uint8[3, height, width] in RGB, at least "
            "one pixel each way. From floats in [0, 1]: (image * 255).round().to(torch.uint8)"
        )

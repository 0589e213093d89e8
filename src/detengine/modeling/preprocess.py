"""From the loader's uint8 images to the padded float batch a trunk takes, on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_CACHED = 2**19
"""Bytes of floats that a core's cache holds from one pass over them to the next. Beside two workers
on two cores, that makes the loader a fifth faster (benchmarks/loader.py)."""


class Preprocess(nn.Module):
    """Bring into the range, subtract the mean, divide by the deviation, pad with zeros to one size.

    mean, std: of RGB in [0, 1], or with to_bgr255 of BGR in 0 to 255, in these orders.
    size_divisible: the batch's height and width are multiples of it. For RGB the arithmetic is that
    of torchvision's GeneralizedRCNNTransform on uint8 / 255, to the last bit; nothing is resized,
    that is the loader's work. channels_last: the batch lies in memory as a trunk in that format
    takes it, pixel by pixel, as the loader's images do: the same values, in half the time on a CPU.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        size_divisible: int,
        *,
        to_bgr255: bool = False,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.to_bgr255 = to_bgr255
        self.channels_last = channels_last
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
        shape = (len(images), height, width, 3)
        if self.channels_last:
            rows = self.mean.new_empty(*shape[:2], width * 3)
            for padded, image in zip(rows, images, strict=True):
                self._fill_by_pixel(padded, image)
            return rows.view(shape).permute(0, 3, 1, 2), sizes
        batch = self.mean.new_empty(len(images), 3, height, width)
        for padded, image in zip(batch, images, strict=True):
            self._fill_by_plane(padded, image)
        return batch, sizes

    def _fill_by_plane(self, padded: Tensor, image: Tensor) -> None:
        """padded: float[3, H', W'], of any values."""
        height, width = image.shape[1:]
        padded[:, height:].zero_()
        padded[:, :height, width:].zero_()
        pixels = image.flip(0) if self.to_bgr255 else image
        self._normalize(padded[:, :height, :width], pixels, self.mean, self.std, row_dim=1)

    def _fill_by_pixel(self, padded: Tensor, image: Tensor) -> None:
        """padded: float[H', W' * 3], of any values: its rows are added to as vectors."""
        height, width = image.shape[1:]
        padded[height:].zero_()
        padded[:height, width * 3 :].zero_()
        mean, std = (each.flatten().repeat(width) for each in (self.mean, self.std))
        pixels = (image.flip(0) if self.to_bgr255 else image).permute(1, 2, 0)
        pixels = pixels.reshape(height, width * 3)
        self._normalize(padded[:height, : width * 3], pixels, mean, std, row_dim=0)

    def _normalize(
        self, inside: Tensor, pixels: Tensor, mean: Tensor, std: Tensor, *, row_dim: int
    ) -> None:
        """Some rows at a time, all passes over them one after the other."""
        rows = _rows_at_once(inside, row_dim)
        parts = zip(
            torch.split(inside, rows, row_dim), torch.split(pixels, rows, row_dim), strict=True
        )
        for part, given in parts:
            part.copy_(given)
            if not self.to_bgr255:
                part.div_(255)
            part.sub_(mean).div_(std)


def _rows_at_once(inside: Tensor, row_dim: int) -> int:
    """On a CPU what its caches hold, elsewhere all: there, passes are few kernels."""
    height = inside.shape[row_dim]
    if inside.device.type != "cpu" or torch.compiler.is_compiling():
        return height
    return max(1, _CACHED * torch.get_num_threads() * height // inside.nbytes)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _raise_if_not_rgb(image: Tensor, index: int) -> None:
    if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(
            f"image {index} of the batch is {str(image.dtype).removeprefix('torch.')}"
            f"{list(image.shape)}, but the model takes uint8[3, height, width] in RGB, at least "
            "one pixel each way. From floats in [0, 1]: (image * 255).round().to(torch.uint8)"
        )

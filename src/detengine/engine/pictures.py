"""Whatever somebody has as a picture, as the uint8[3, H, W] that the model sees."""

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from detengine.data.images import image_of, read_image

Picture: TypeAlias = str | Path | Image.Image | NDArray[np.uint8] | Tensor
"""A file; a picture of Pillow's; an array [height, width, 3]; a tensor [3, height, width]."""


def to_image(picture: Picture, index: int = 0) -> Tensor:
    """uint8[3, H, W], RGB, upright.

    picture: a file or a picture of Pillow's, in any mode, turned as its EXIF orientation says;
    uint8[height, width, 3] of NumPy, also [height, width] (grey) and [height, width, 4] (what is
    transparent keeps its colour, as in files); or uint8[3, height, width] of torch, on any device.
    Arrays and tensors are RGB. index: its place among others, for messages.
    Raises FileNotFoundError or ValueError, naming the picture and the cure.
    """
    if isinstance(picture, str | Path):
        return read_image(Path(picture))
    if isinstance(picture, Image.Image):
        return image_of(picture)
    if isinstance(picture, Tensor):
        return _of_tensor(picture, index)
    if isinstance(picture, np.ndarray):
        return _of_array(picture, index)
    raise ValueError(
        f"picture {index} is of the type {type(picture).__name__}; expected a path, a picture of "
        "Pillow's, uint8[height, width, 3] of NumPy or uint8[3, height, width] of torch, or a list "
        "of these"
    )


def _of_array(array: NDArray[Any], index: int) -> Tensor:
    shape = array.shape
    is_picture = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
    if array.dtype != np.uint8 or not is_picture or 0 in shape:
        raise _refusal(
            index, f"{array.dtype}{list(shape)}", "uint8[height, width, 3]", _cure(array)
        )
    if len(shape) == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    # a copy: what comes in may be a view of another order, or not to be written to
    return torch.from_numpy(array[:, :, :3].copy()).permute(2, 0, 1)


def _cure(array: NDArray[Any]) -> str:
    shape = array.shape
    if len(shape) == 4:
        return "give several pictures as a list: list(batch)"
    if np.issubdtype(array.dtype, np.floating):
        return "floats in [0, 1]: (255 * image).round().astype(numpy.uint8)"
    if array.dtype == np.uint16:
        return "of 16 bits: (image // 257).astype(numpy.uint8)"
    if len(shape) == 3 and shape[0] == 3 and shape[2] not in (3, 4):
        return "planes first: image.transpose(1, 2, 0)"
    return "numpy.asarray(PIL.Image.open(path).convert('RGB')), say"


def _of_tensor(tensor: Tensor, index: int) -> Tensor:
    shape = list(tensor.shape)
    if tensor.dtype == torch.uint8 and len(shape) == 3 and shape[0] == 3 and 0 not in shape:
        return tensor.detach().cpu()
    cure = "torchvision.io.decode_image(path, mode='RGB'), say"
    if len(shape) == 4:
        cure = "give several pictures as a list: list(batch)"
    elif tensor.is_floating_point():
        cure = "floats in [0, 1]: (255 * image).round().to(torch.uint8)"
    elif len(shape) == 3 and shape[2] == 3:
        cure = "planes last: image.permute(2, 0, 1)"
    kind = str(tensor.dtype).removeprefix("torch.")
    raise _refusal(index, f"{kind}{shape}", "uint8[3, height, width]", cure)


def _refusal(index: int, given: str, expected: str, cure: str) -> ValueError:
    return ValueError(f"picture {index} is {given}, but {expected} in RGB is expected; {cure}")

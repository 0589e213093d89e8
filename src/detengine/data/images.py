"""Pictures from disk as the tensors that travel: uint8[3, H, W], RGB, upright.

Whatever a file holds becomes the same kind of picture:
- EXIF orientation is applied; all annotations and sizes are those of the upright picture.
- Greyscale and palettes become RGB; transparency is dropped (the colours beneath it stay).
- 16-bit greyscale is divided by 257, so that 65535 becomes 255.
- CMYK and the like are converted by Pillow, without colour profiles.
- Of several frames the first is read.
Float pictures and integers beyond 16 bits are refused, because their range is known to nobody.
"""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from detengine.distributed.out_of_memory import is_out_of_memory

_EXIF_ORIENTATION = 0x0112
_ORIENTATIONS_ON_THEIR_SIDE = frozenset({5, 6, 7, 8})
_ORIENTATIONS_TURNED = frozenset(range(2, 9))
_TEXT = frozenset({*range(32, 127), 9, 10, 13})
_LOOKED_AT = 64
"""Bytes that tell a text, such as a page that a server sent in a picture's place."""


def read_image(path: Path) -> Tensor:
    """The picture as uint8[3, H, W], RGB, contiguous by pixel (a view of H x W x 3).

    Raises FileNotFoundError, or ValueError naming the path and the cure for a file that cannot be
    decoded: empty, truncated, no picture, of a kind without a known range, or suspiciously large.
    """
    with _opened(path) as image:
        pixels = _as_rgb(_upright(image))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def image_of(picture: Image.Image) -> Tensor:
    """An open picture as `read_image` gives it. Raises ValueError where it cannot be decoded."""
    try:
        return torch.from_numpy(_as_rgb(_upright(picture))).permute(2, 0, 1)
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"the picture {picture!r} cannot be read: {error}") from error


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright picture, from its header alone. Errors as `read_image`."""
    with _opened(path) as image:
        width, height = image.size
        on_its_side = orientation_of(image) in _ORIENTATIONS_ON_THEIR_SIDE
    return (width, height) if on_its_side else (height, width)


def count_frames(path: Path) -> int:
    """How many pictures a file holds, of which `read_image` gives the first. Errors as there.

    A photograph's previews (MPO) are none.
    """
    with _opened(path) as image:
        return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))


def read_labels(path: Path) -> NDArray[Any]:
    """A picture's numbers as they are stored: labels as [H, W]. Errors as `read_image`."""
    with _opened(path) as image:
        return np.asarray(image)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The open picture. Whatever is raised on the way is the file's fault, and is said of it.

    Pillow raises anything on damaged files, down to RuntimeError and TypeError.
    """
    _raise_if_no_file(path)
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{path} claims to be larger than Pillow lets through: {error} If you trust the file, "
            "raise PIL.Image.MAX_IMAGE_PIXELS; otherwise cut it into tiles."
        ) from error
    except Exception as error:
        if is_out_of_memory(error):
            raise MemoryError(f"there is not enough of it to decode {path}") from error
        raise ValueError(_unreadable(path, error)) from error


def _raise_if_no_file(path: Path) -> None:
    """A pipe would be waited for, and a device be read without end."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(_unreadable(path, error)) from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(
            f"{path} cannot be read as an image: it is no file, but a pipe or a device. "
            "Leave it out."
        )


def orientation_of(image: Image.Image) -> int:
    """1 to 8, as EXIF has it; 1, upright, where it says nothing, or nothing that can be."""
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    return orientation if orientation in _ORIENTATIONS_TURNED else 1


def _unreadable(path: Path, error: Exception) -> str:
    start = _beginning(path)
    size = path.stat().st_size if start is not None else 0
    if start == b"":
        reason = "it is empty"
    elif start and _TEXT.issuperset(start):
        reason = f"it is text, which begins with {start.decode()!r}"
    else:
        reason = f"{error} ({size} bytes)"
    return (
        f"{path} cannot be read as an image: {reason}. "
        "Copy the file again from its source, or leave it out."
    )


def _beginning(path: Path) -> bytes | None:
    """None where there is no such file."""
    try:
        with path.open("rb") as file:
            return file.read(_LOOKED_AT)
    except (OSError, ValueError):  # ValueError: its name has a zero byte
        return None


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF says; the picture itself if it says nothing, where Pillow would copy it."""
    image.load()  # a PNG may say it behind its pixels
    return ImageOps.exif_transpose(image) if orientation_of(image) != 1 else image


def _as_rgb(image: Image.Image) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """uint8[H, W, 3], writable."""
    if image.mode == "F":
        raise ValueError(
            "its pixels are floating-point numbers; save it as 8-bit or 16-bit integers"
        )
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = _to_8_bits(np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _to_8_bits(
    grey: "np.ndarray[tuple[int, ...], np.dtype[np.integer]]",
) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """From 16 bits. Older Pillow hands 16-bit files over as 32-bit integers."""
    wide = grey.astype(np.int64)
    if wide.size and (wide.min() < 0 or wide.max() > 65535):
        raise ValueError(
            f"its pixels run from {wide.min()} to {wide.max()}, beyond 16 bits; "
            "save it as 8-bit or 16-bit integers"
        )
    return ((wide + 128) // 257).astype(np.uint8)

"""What is taken for a picture, and what its pixels are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detengine.engine.pictures import to_image

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def assert_same(image: torch.Tensor, expected: np.ndarray = PIXELS) -> None:
    assert image.dtype == torch.uint8
    assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_a_path_a_picture_an_array_and_a_tensor_are_the_same_picture(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(PIXELS).save(path)
    planes = torch.from_numpy(PIXELS.transpose(2, 0, 1).copy())
    for picture in (path, str(path), Image.open(path), PIXELS, planes, Image.fromarray(PIXELS)):
        assert_same(to_image(picture))


def test_grey_and_transparent_ones_become_rgb_as_files_do() -> None:
    grey, alpha = PIXELS[:, :, 0], PIXELS[:, :, :1]
    assert_same(to_image(grey), np.repeat(grey[:, :, None], 3, axis=2))
    assert_same(to_image(Image.fromarray(grey)), np.repeat(grey[:, :, None], 3, axis=2))
    assert_same(to_image(np.concatenate([PIXELS, alpha], axis=2)))
    assert_same(to_image(Image.fromarray(np.concatenate([PIXELS, alpha], axis=2))))


def test_a_picture_of_pillows_is_turned_as_its_exif_says() -> None:
    picture = Image.fromarray(PIXELS)
    picture.getexif()[0x0112] = 6  # to be turned clockwise by a quarter
    assert_same(to_image(picture), np.rot90(PIXELS, -1))


def test_what_comes_in_is_not_held_on_to() -> None:
    pixels = PIXELS.copy()[:, ::-1]
    image = to_image(pixels)
    pixels[:] = 0
    assert_same(image, PIXELS[:, ::-1])


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (np.zeros((4, 5, 3), np.float32), r"float32\[4, 5, 3\].*\(255 \* image\)\.round"),
        (np.zeros((4, 5, 3), np.uint16), r"uint16.*image // 257"),
        (np.zeros((3, 4, 5), np.uint8), r"planes first: image\.transpose\(1, 2, 0\)"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"several pictures as a list: list\(batch\)"),
        (np.zeros((0, 5, 3), np.uint8), r"uint8\[0, 5, 3\], but uint8\[height, width, 3\] in RGB"),
        (torch.zeros(3, 4, 5), r"float32\[3, 4, 5\].*\.to\(torch\.uint8\)"),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), r"planes last: image\.permute\(2, 0, 1\)"),
        (torch.zeros(2, 3, 4, 5, dtype=torch.uint8), r"several pictures as a list"),
        (b"bytes", r"of the type bytes; expected a path"),
        (Image.fromarray(np.zeros((4, 5), np.float32)), r"floating-point numbers; save it as"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_cure(picture: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        to_image(picture, 7)  # type: ignore[arg-type]


def test_the_picture_is_named_by_its_place_or_its_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="picture 7 is float32"):
        to_image(np.zeros((4, 5, 3), np.float32), 7)  # type: ignore[arg-type]
    (tmp_path / "text.jpg").write_text("text")
    with pytest.raises(ValueError, match=r"text\.jpg cannot be read as an image"):
        to_image(tmp_path / "text.jpg")
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        to_image(tmp_path / "none.jpg")

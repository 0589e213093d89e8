from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from detengine.data.images import read_image, read_size

RED, GREEN = (200, 10, 30), (20, 180, 60)


def _save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def _two_pixels() -> Image.Image:
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), GREEN)
    return image


def test_a_colour_image_comes_as_its_own_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = read_image(_save(Image.fromarray(pixels), tmp_path / "a.png"))
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1))


YCBCR = pytest.param(
    "YCbCr",
    marks=pytest.mark.skipif(
        int(PIL.__version__.split(".")[0]) < 13,
        reason="older ones cut such a TIFF short",
    ),
)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK", YCBCR])
def test_every_kind_of_picture_becomes_three_channels_of_8_bits(tmp_path: Path, mode: str) -> None:
    suffix = ".tif" if mode in ("CMYK", "YCbCr") else ".png"
    white = Image.new("RGB", (3, 2), "white").convert(mode)
    image = read_image(_save(white, tmp_path / f"a{suffix}"))
    assert image.shape == (3, 2, 3)
    assert image.unique().tolist() == [255]


def test_16_bits_are_divided_by_257_and_rounded(tmp_path: Path) -> None:
    grey = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    image = read_image(_save(Image.fromarray(grey), tmp_path / "a.png"))
    assert image[0].tolist() == image[2].tolist() == [[0, 0, 1, 1, 128, 255]]


def test_transparency_is_dropped_and_the_colours_beneath_it_stay(tmp_path: Path) -> None:
    image = Image.new("RGBA", (1, 1), (*RED, 0))
    assert read_image(_save(image, tmp_path / "a.png"))[:, 0, 0].tolist() == list(RED)


def test_a_palette_with_transparent_entries_is_read_without_a_warning(tmp_path: Path) -> None:
    image = _two_pixels().quantize(2)
    path = _save(image, tmp_path / "a.png", transparency=bytes([0, 128]))
    assert read_image(path)[:, 0].T.tolist() == [list(RED), list(GREEN)]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_pixels_and_to_the_size(
    tmp_path: Path, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = _save(Image.new("RGB", (6, 4)), tmp_path / "a.png", exif=exif)
    size = (6, 4) if orientation >= 5 else (4, 6)
    assert read_image(path).shape[1:] == size
    assert read_size(path) == size


def test_a_picture_on_its_side_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to see it upright
    image = read_image(_save(_two_pixels(), tmp_path / "a.png", exif=exif))
    assert image[:, :, 0].T.tolist() == [list(RED), list(GREEN)]


def test_of_several_frames_the_first_is_read(tmp_path: Path) -> None:
    second = Image.new("RGB", (2, 1), GREEN)
    first, path = Image.new("RGB", (2, 1), RED), tmp_path / "a.tif"
    _save(first, path, save_all=True, append_images=[second])
    assert read_image(path)[:, 0, 0].tolist() == list(RED)


def test_a_truncated_jpeg_is_refused_with_its_path_and_the_cure(tmp_path: Path) -> None:
    path = _save(Image.effect_noise((64, 64), 50).convert("RGB"), tmp_path / "cut.jpg")
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(ValueError, match=r"cut\.jpg cannot be read .* truncated.*Copy the file"):
        read_image(path)


def test_a_truncated_png_is_refused(tmp_path: Path) -> None:
    path = _save(Image.effect_noise((64, 64), 50), tmp_path / "cut.png")
    path.write_bytes(path.read_bytes()[:800])
    with pytest.raises(ValueError, match=r"cut\.png cannot be read as an image"):
        read_image(path)


@pytest.mark.parametrize("read", [read_image, read_size])
def test_an_empty_file_is_said_to_be_empty(tmp_path: Path, read: object) -> None:
    (tmp_path / "a.jpg").touch()
    assert callable(read)
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read as an image: it is empty"):
        read(tmp_path / "a.jpg")


def test_a_file_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("<html>404</html>")
    with pytest.raises(ValueError, match="it is text, which begins with '<html>404</html>'"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("read", [read_image, read_size])
def test_a_missing_file_stays_a_missing_file(tmp_path: Path, read: object) -> None:
    assert callable(read)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "a.jpg")


def test_a_decompression_bomb_is_refused_with_the_way_to_allow_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _save(Image.new("L", (100, 100)), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"larger than Pillow lets through.*MAX_IMAGE_PIXELS"):
        read_image(path)


def test_float_pictures_are_refused(tmp_path: Path) -> None:
    path = _save(Image.new("F", (2, 2), 0.5), tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif .*floating-point.*8-bit or 16-bit"):
        read_image(path)


def test_integers_beyond_16_bits_are_refused_with_their_range(tmp_path: Path) -> None:
    path = _save(Image.new("I", (2, 2), 70000), tmp_path / "a.tif")
    with pytest.raises(ValueError, match="run from 70000 to 70000, beyond 16 bits"):
        read_image(path)

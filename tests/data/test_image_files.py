"""Every kind of broken file is named; every kind of good one is not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from detengine.data.coco import load_coco
from detengine.data.image_files import (
    ImageFile,
    examine_image,
    examine_images,
    findings_of_images,
)
from detengine.structures.finding import Finding


def photograph(path: Path, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Path:
    """size: (width, height)."""
    gradient = Image.linear_gradient("L").resize(size).convert(mode)
    gradient.save(path)
    return path


def examine(path: Path, expected: tuple[int, int] = (30, 40)) -> ImageFile:
    return examine_image(0, path, expected)


def found(path: Path, expected: tuple[int, int] = (30, 40)) -> list[Finding]:
    whole = examine(photograph(path.with_name("whole.jpg")))
    return findings_of_images([whole, examine(path, expected)], "pets", path.parent)


def test_a_good_file_is_nothing_to_be_said_of(tmp_path: Path) -> None:
    assert found(photograph(tmp_path / "a.jpg")) == []


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    path = photograph(tmp_path / "a.jpg", (400, 300))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    [finding] = found(path, (300, 400))
    assert finding.severity == "error"
    assert "truncated" in finding.what
    assert "Copy the file again" in finding.cure


@pytest.mark.parametrize("text", ["not a picture", "<!doctype html><title>Sign in</title>"])
def test_text_under_a_pictures_name_is_called_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_text(text)
    [finding] = found(path)
    assert f"{path} cannot be read as an image: it is text, which begins with {text!r}" in str(
        finding
    )


def test_an_empty_and_an_absent_file_are_errors(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jpg"
    empty.touch()
    assert "it is empty" in found(empty)[0].what
    assert f"{tmp_path / 'gone.jpg'} does not exist" in found(tmp_path / "gone.jpg")[0].what


def test_another_size_than_the_annotations_are_for_is_an_error(tmp_path: Path) -> None:
    [finding] = found(photograph(tmp_path / "a.jpg"), (60, 80))
    assert "has 40 x 30 pixels (width x height, upright), but its" in finding.what
    assert "annotations are for 80 x 60" in finding.what


def test_an_orientation_that_was_not_applied_is_recognised(tmp_path: Path) -> None:
    path = photograph(tmp_path / "a.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as image:
        image.save(path, exif=exif)
    assert "Its EXIF orientation (6) was not applied" in found(path, (30, 40))[0].cure
    [note] = found(path, (40, 30))
    assert (note.severity, "a.jpg" in note.what) == ("note", True)


def test_formats_and_colours_that_are_unusual_are_notes(tmp_path: Path) -> None:
    Image.new("L", (40, 30)).save(tmp_path / "a.jpg", "PNG")
    suffix, colours = found(tmp_path / "a.jpg")
    assert (suffix.severity, colours.severity) == ("note", "note")
    assert "a.jpg is PNG" in suffix.what
    assert "1 in L" in colours.what


def test_the_digest_is_that_of_the_picture_not_of_its_file(tmp_path: Path) -> None:
    first = photograph(tmp_path / "a.png")
    with Image.open(first) as image:
        image.save(tmp_path / "b.bmp")
    assert examine(first).digest == examine(tmp_path / "b.bmp").digest
    assert examine(first).digest != examine(photograph(tmp_path / "c.png", (41, 30))).digest


def test_a_folder_without_any_of_them_is_one_error(make_coco: Callable[..., Path]) -> None:
    path = make_coco([(20, 30)] * 3, [])
    truth = load_coco(path, path.parent, "pets")
    nowhere = path.parent / "nowhere"
    [finding] = findings_of_images(list(examine_images(truth, nowhere)), "pets", nowhere)
    assert f"none of its 3 images is in {nowhere}" in finding.what


def test_all_images_are_examined_in_their_order(make_coco: Callable[..., Path]) -> None:
    path = make_coco([(20, 30), (9, 8), (20, 30)], [])
    shutil.copy(path.parent / "1.png", path.parent / "3.png")
    truth = load_coco(path, path.parent, "pets")
    files = list(examine_images(truth, path.parent))
    assert [each.index for each in files] == [0, 1, 2]
    assert [each.problem for each in files] == [None] * 3
    assert files[0].digest == files[2].digest != files[1].digest

"""The same picture twice is told from two pictures."""

from pathlib import Path

from detengine.data.image_files import ImageFile
from detengine.data.split_checks import check_doubles, check_leaks


def files(**digest_of_name: str) -> list[ImageFile]:
    return [
        ImageFile(index, Path(f"/data/{name}.jpg"), None, (3, 4), digest.encode())
        for index, (name, digest) in enumerate(digest_of_name.items())
    ]


def test_different_pictures_are_neither_doubles_nor_leaks() -> None:
    train, val = files(a="1", b="2"), files(c="3")
    assert check_doubles(train, "train") == []
    assert check_leaks({"train": train}, {"val": val}) == []


def test_a_picture_that_is_there_twice_is_named_with_its_copy() -> None:
    [finding] = check_doubles(files(a="1", b="2", c="1"), "train")
    assert finding.severity == "warning"
    assert "1 picture is there more than once, pixel by pixel: a.jpg = c.jpg" in finding.what


def test_a_picture_in_both_splits_is_a_leak_whatever_its_name() -> None:
    [finding] = check_leaks({"train": files(a="1", b="2")}, {"val": files(c="2", d="3", a="1")})
    assert finding.where == "train and val"
    assert "2 pictures are in both, pixel by pixel: b.jpg = c.jpg, a.jpg" in finding.what


def test_the_same_name_with_other_pixels_is_a_note() -> None:
    [finding] = check_leaks({"train": files(street="1")}, {"val": files(street="2")})
    assert (finding.severity, "street.jpg" in finding.what) == ("note", True)


def test_names_that_only_count_mean_nothing() -> None:
    numbered = {"000001": "1"}
    assert check_leaks({"train": files(**numbered)}, {"val": files(**{"000001": "2"})}) == []


def test_a_set_that_is_trained_on_and_scored_is_said_once() -> None:
    [finding] = check_leaks({"all": files(a="1", b="2")}, {"all": files(a="1", b="2")})
    assert (finding.severity, finding.where) == ("warning", "all")


def test_files_that_cannot_be_read_are_no_copies_of_each_other() -> None:
    broken = [ImageFile(n, Path(f"{n}.jpg"), "broken") for n in range(2)]
    assert check_doubles(broken, "train") == []
    assert check_leaks({"train": broken}, {"val": broken}) == []

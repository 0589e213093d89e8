"""Which files a command line names, and by what names they go."""

from pathlib import Path

import pytest

from detengine.picture_files import FoundFiles, find_pictures


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command is run: two folders with pictures of the same names, a video, a text."""
    for name in ("a/1.jpg", "a/2.PNG", "b/1.jpg", "b/c/3.tif", "b/film.mp4", "b/.hidden.jpg",
                 "b/.git/4.jpg", "b/notes.txt", "scan"):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names_of(*given: str) -> list[str]:
    found = find_pictures(given, beside=Path("out"))
    return [each.name for each in (*found.pictures, *found.videos)]


def test_a_folder_gives_all_that_is_in_it_but_what_is_hidden(folder: Path) -> None:
    found = find_pictures(["b"], beside=Path("out"))
    assert isinstance(found, FoundFiles)
    assert [each.name for each in found.pictures] == ["1.jpg", "c/3.tif"]
    assert [each.path for each in found.videos] == [folder / "b/film.mp4"]
    assert found.passed_over == 1


def test_names_keep_apart_what_has_the_same_name_elsewhere(folder: Path) -> None:
    assert names_of("a", "b/1.jpg") == ["a/1.jpg", "a/2.PNG", "b/1.jpg"]
    assert names_of("a/1.jpg") == ["1.jpg"]
    assert names_of("b/c", "a/1.jpg") == ["b/c/3.tif", "a/1.jpg"]


def test_a_file_that_is_named_twice_comes_once(folder: Path) -> None:
    assert names_of("a/1.jpg", "a", str(folder / "a/1.jpg")) == ["1.jpg", "2.PNG"]


def test_a_file_that_is_named_itself_is_a_picture_whatever_its_name(folder: Path) -> None:
    assert names_of("scan", "a/1.jpg") == ["scan", "a/1.jpg"]


def test_a_pattern_is_resolved_where_the_shell_has_not(folder: Path) -> None:
    assert names_of("**/*.jpg") == ["a/1.jpg", "b/1.jpg"]
    assert names_of("a/*") == ["1.jpg", "2.PNG"]
    (folder / "a/[1].jpg").touch()
    assert names_of("a/[1].jpg") == ["[1].jpg"]


def test_what_is_written_is_not_read_again(folder: Path) -> None:
    assert "b/1.jpg" not in names_of("b")
    found = find_pictures(["."], beside=Path("b"))
    assert [each.name for each in found.pictures] == ["1.jpg", "2.PNG"]


def test_an_original_is_not_replaced_by_its_drawing(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"a/1\.jpg is in the folder that is written to, a, where"):
        find_pictures(["a/1.jpg"], beside=Path("a"))
    with pytest.raises(ValueError, match=r"b/c/3\.tif is in the folder that is written to"):
        find_pictures(["b/c/3.tif"], beside=folder / "b")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("none.jpg", r"there is no none\.jpg\. Give pictures, videos, folders"),
        ("a/*.gif", r"no file matches a/\*\.gif"),
        ("b/*/", r"no file matches"),
    ],
)
def test_a_name_without_a_file_is_an_error(folder: Path, given: str, said: str) -> None:
    with pytest.raises(FileNotFoundError, match=said):
        names_of("a", given)


def test_a_folder_without_pictures_is_an_error(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"folder empty holds no picture.*but no files at all"):
        names_of("empty")
    (folder / "empty/notes.txt").touch()
    with pytest.raises(ValueError, match=r"but 1 other files\. In a folder, .*\.jpg"):
        names_of("empty")

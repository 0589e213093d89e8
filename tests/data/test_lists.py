from pathlib import Path

import pytest

from detengine.data.lists import is_file, read_list


def test_lines_have_their_numbers_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffa\r\n\n  bé \n".encode())
    assert read_list(path) == [(1, "a"), (3, "bé")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a\n\xff\n", r"a\.txt is no text in UTF-8"),
        (b"a\n" + b"x" * 3000, r"a\.txt:2 is no name of an image: 'xxx"),
        (b"a\0b", r"a\.txt:1 is no name of an image"),
    ],
)
def test_what_can_be_no_list_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said) as raised:
        read_list(path)
    assert len(str(raised.value)) < 300


def test_a_name_that_no_system_takes_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert is_file(tmp_path / "a")
    assert not is_file(tmp_path / ("x" * 3000))
    assert not is_file(tmp_path / "a\0b")

"""Text files that list images, a name on each line."""

from pathlib import Path

from detengine.untrusted.excerpt import excerpt

LONGEST_NAME = 1000
"""Characters, with the folders in it; systems take 255 of a single folder or file."""


def is_file(path: Path) -> bool:
    """Whether there is such a file; not even one of a name that no system takes."""
    try:
        return path.is_file()
    except OSError:  # its name is too long
        return False


def read_list(path: Path) -> list[tuple[int, str]]:
    """The number and the text of each line that has any.

    Raises ValueError, naming the file and the line, for what is no text or can be no name.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8, but must list images: {error}") from error
    listed = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    for number, name in listed:
        if len(name) > LONGEST_NAME or "\0" in name:
            raise ValueError(f"{path}:{number} is no name of an image: {excerpt(name)}")
    return listed

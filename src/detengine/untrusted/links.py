"""Files that are written in a folder which may be anybody's, and so may hold links."""

from pathlib import Path


def without_link(path: Path) -> Path:
    """The path of a file that is to be written, after a link that stands there was taken away.

    What is opened through a link is written where it leads to; a run that somebody sent could lead
    to any file of its reader's. Raises OSError if the link cannot be removed.
    """
    if path.is_symlink():
        path.unlink()
    return path

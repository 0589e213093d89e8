"""A file's sha256 beside it, as sha256sum writes it: FILE.sha256."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from detengine.disk.writing import beside, naming, remove_quietly, replace, sync, write_text


def checksums_of(path: Path) -> Path:
    """The file that holds the checksum of another."""
    return path.with_name(path.name + ".sha256")


def sha256_of(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_digests(path: Path) -> list[str]:
    """The digests beside a file, of which one is to be the file's; none if there is no such file.

    Raises ValueError if the file is there and holds none.
    """
    checksums = checksums_of(path)
    if not checksums.is_file():
        return []
    lines = checksums.read_text(encoding="utf-8", errors="replace").splitlines()
    digests = [line.split(maxsplit=1)[0] for line in lines if line.strip()]
    if not digests:
        raise ValueError(
            f"{checksums} is empty, so nobody can tell whether {path.name} is whole. Copy "
            f"both again; where you trust {path.name}, delete {checksums.name}."
        )
    return digests


@contextmanager
def checked_file(path: Path) -> Iterator[Path]:
    """As `whole_file`, with the checksum beside it.

    Killed at any moment, the path holds the old file or the new one, with its checksum.
    """
    aside = beside(path)
    try:
        with naming(path):
            yield aside
            _replace_with_checksum(aside, path)
    except BaseException:
        remove_quietly(aside)
        with suppress(OSError):
            if not path.exists():
                checksums_of(path).unlink(missing_ok=True)
        raise


def write_checked_text(path: Path, text: str) -> None:
    """As `write_text`, with the checksum beside it."""
    with checked_file(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        sync(file)


def _replace_with_checksum(aside: Path, path: Path) -> None:
    digest = sha256_of(aside)
    if not path.exists():
        _write_digests(path, [digest])
        replace(aside, path)
        return
    # Until it is replaced the old file stands at path: both checksums hold for a moment.
    _write_digests(path, [digest, *_digests_of_old(path)])
    replace(aside, path)
    _write_digests(path, [digest])


def _digests_of_old(path: Path) -> list[str]:
    """Those that the file to be replaced has; none where nobody can tell whether it is whole."""
    try:
        return read_digests(path) or [sha256_of(path)]
    except ValueError:
        return []


def _write_digests(path: Path, digests: list[str]) -> None:
    write_text(checksums_of(path), "".join(f"{digest}  {path.name}\n" for digest in digests))

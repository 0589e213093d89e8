"""Files that are never half there, and the error of one that cannot be written. Without torch."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from detengine.untrusted.links import without_link

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LONGEST = 240
_NAMED = "_detengine_is_named"
_ELSEWHERE = "set another OUTPUT_DIR (--output-dir, --output)"


def write_text(path: Path, text: str) -> None:
    """Write a small text file that is never half there, not even after a power cut.

    Raises OSError, naming the file and the folder, if it cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """As `write_text`."""
    with whole_file(path, durable=True) as aside, aside.open("wb") as file:
        file.write(content)
        sync(file)


@contextmanager
def whole_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A block that writes to the name it is given, which becomes the path when it ends.

    Where the block fails, the path is what it was and nothing is left beside it. Raises what the
    block raises, an OSError as `naming` does. durable: also after a power cut the path is the old
    file or the new one, which the block must `sync`.
    """
    aside = beside(path)
    try:
        with naming(path):
            yield aside
            if durable:
                replace(aside, path)
            else:
                aside.replace(path)
    except BaseException:
        remove_quietly(aside)
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A block that writes a file, whose OSError becomes one that says all of `cannot_write`.

    So does torch's RuntimeError for a file that could not be written.
    """
    try:
        yield
    except OSError as error:
        if _NAMED in error.__dict__:  # that of a file beside it
            raise
        raise cannot_write(path, error) from error
    except RuntimeError as error:
        if not _is_of_writing(error):
            raise
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError | RuntimeError, *, doing: str = "write") -> OSError:
    """The error to raise in the place of one that names no file, of the same number.

    It says which file, why, how much room there is, and the cure.
    """
    error = _system_error_in(error) or error  # torch turns a full disk into a RuntimeError
    number, reason = (error.errno, error.strerror) if isinstance(error, OSError) else (None, error)
    message = f"cannot {doing} {path.name}: {reason or error}; {_cure(path.parent, number)}"
    named = OSError(message) if number is None else OSError(number, message)
    named.__dict__[_NAMED] = True
    return named


def beside(path: Path) -> Path:
    """The name that a file has until it is whole: no longer than a name may be, and of no link."""
    return without_link(path.with_name(os.fsdecode(os.fsencode(path.name)[:_LONGEST]) + ".tmp"))


def sync(file: IO[Any]) -> None:
    """Wait until what was written is on the disk, which may fail only now."""
    file.flush()
    os.fsync(file.fileno())


def replace(aside: Path, path: Path) -> None:
    """Rename, and where the system can make the renaming last through a power cut."""
    aside.replace(path)
    if os.name == "posix":
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file if it is there. Raises OSError, naming it."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error, doing="remove") from error


def remove_quietly(*leftovers: Path) -> None:
    """Remove what is there of them, as far as the disk lets it."""
    for each in leftovers:
        with suppress(OSError):
            each.unlink()


def _is_of_writing(error: RuntimeError) -> bool:
    """Whether torch says by it that it could not write a file."""
    text = str(error)
    says_so = "PytorchStreamWriter" in text or "inline_container" in text
    return says_so or isinstance(error.__context__, OSError)


def _system_error_in(error: BaseException) -> OSError | None:
    """The error itself, or what it came of."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__context__
    return found


def _cure(folder: Path, number: int | None) -> str:
    """What is to be done. number: the error's."""
    try:
        if not folder.is_dir():
            return f"there is no folder {folder}; create it or {_ELSEWHERE}"
        if number == errno.EROFS:
            return (
                f"the file system of {folder} is read-only, as one becomes whose disk has errors; "
                f"see to it, or {_ELSEWHERE}"
            )
        if not os.access(folder, os.W_OK):
            return f"the folder {folder} may not be written to; allow it or {_ELSEWHERE}"
        room = _room_in(folder)
    except OSError as error:  # the disk is gone
        return f"{folder} cannot be looked at ({error.strerror}); see to it, or {_ELSEWHERE}"
    if number is None or number in _NO_ROOM:
        return f"{room}; make room there or {_ELSEWHERE}"
    return f"{room}; see whether the disk, or the way to it, has failed, or {_ELSEWHERE}"


def _room_in(folder: Path) -> str:
    """How much is free, in words; that no file more fits, where files are counted."""
    free = f"{shutil.disk_usage(folder).free / 2**20:,.0f} MiB are free in {folder}"
    if hasattr(os, "statvfs"):
        found = os.statvfs(folder)
        if found.f_files and not found.f_favail:
            return f"{free}, but it holds as many files as it can (its inodes are used up)"
    return free

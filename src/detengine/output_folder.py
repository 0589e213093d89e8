"""The folder a run writes everything to."""

import errno
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from detengine.checkpoint.history import has_checkpoint
from detengine.config.load import parse_config
from detengine.config.schema import Config
from detengine.config.yaml_files import read_yaml_text
from detengine.disk.writing import naming, remove_quietly
from detengine.distributed.comm import broadcast, is_main_process, synchronize
from detengine.untrusted.links import without_link

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CONFIG = "config.yaml"
"""A training's configuration, every value written out, in its folder."""


def read_run_config(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration that a run wrote into its folder; overrides: as of `load_config`.

    The folder may be anybody's. So its configuration includes no other file (_BASE_) and has no
    alias, as ours never have; what code it names (MODEL.BUILDER) is for the caller to refuse.
    Raises ConfigError.
    """
    path = folder / CONFIG
    return parse_config(read_yaml_text(path), overrides, source=str(path))


def prepare_output_folder(path: str | Path, *, resume: bool) -> Path:
    """The run's folder, made if need be.

    Raises FileExistsError if it holds a run that is not to be resumed.
    """
    folder = make_output_folder(path)
    synchronize()
    if not resume and has_checkpoint(folder):
        raise FileExistsError(
            f"{folder} holds a run already (its checkpoints). Add --resume to go on with it, or "
            "name another folder by --output-dir (OUTPUT_DIR)."
        )
    return folder


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes from training in the folder; called by all ranks, rank 0 holds it.

    The lock goes with the process, however that ends, and is not inherited by the loader's. Where
    the system knows no such locks (Windows, some network file systems) nothing is held.
    Raises BlockingIOError on all ranks if another process holds the folder.
    """
    path = folder / "run.lock"
    file, holder = _lock(path) if is_main_process() else (None, "")
    holder = broadcast(holder)
    if holder:
        raise BlockingIOError(
            f"{folder} is being trained in by another process ({holder}). Wait for it, stop it, or "
            "name another folder by --output-dir (OUTPUT_DIR)."
        )
    try:
        yield
    finally:
        if file is not None:
            remove_quietly(path)
            file.close()


def is_held(folder: Path) -> bool | None:
    """Whether another process trains in the folder; None where the system cannot tell.

    Not to be asked by the process that holds it, which would let go of it.
    """
    path = folder / "run.lock"
    if fcntl is None or not path.is_file():
        return None if fcntl is None else False
    try:
        with path.open("r+", encoding="utf-8") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:
        return None
    return False


def _lock(path: Path) -> tuple[TextIO | None, str]:
    """The locked file, if the system can lock it, and who else holds it, if anybody does."""
    if fcntl is None:
        return None, ""
    with naming(path):
        file = without_link(path).open("a+", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        holder = file.read().strip() or "which has not said its number"
        file.close()
        return None, holder
    except OSError:
        file.close()
        return None, ""
    with suppress(OSError):  # a full disk: it is held all the same, by whom is not said
        file.truncate(0)
        os.write(file.fileno(), f"process {os.getpid()} on {platform.node()}\n".encode())
    return file, ""


def make_output_folder(path: str | Path, *, within: Path | None = None) -> Path:
    """The folder, made if need be. Raises OSError, with the cure, where it cannot be written to.

    within: one of those above it that is not made: where it is gone, its disk may be, and what
    follows is not to land on another.
    """
    folder = Path(path)
    try:
        if within is not None and not within.is_dir():
            raise FileNotFoundError(errno.ENOENT, f"{within} was removed, or its disk is gone")
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise type(error)(
            f"the output folder {folder} cannot be made: {error.strerror}. "
            "Name another by --output-dir (OUTPUT_DIR)."
        ) from error
    if not writable:
        raise PermissionError(
            f"the output folder {folder} cannot be written to. "
            "Name another by --output-dir (OUTPUT_DIR)."
        )
    return folder


def raise_if_not_writable(target: Path, *, overwrite: bool) -> None:
    """Raise OSError, with the cure, unless this is the name of a file that may be written."""
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; give the name of a file to write")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} is there already; give another name, or --overwrite")
    folder = target.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; create it")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"the folder {folder} cannot be written to; give another")


def free_folder(name: str) -> Path:
    """`name`, or `name-2`, `name-3`, ... if it is there already."""
    folder, number = Path(name), 1
    while folder.exists():
        number += 1
        folder = Path(f"{name}-{number}")
    return folder


def last_folder(name: str) -> Path:
    """The last of `name`, `name-2`, `name-3`, ... that is there; `name` if none is."""
    folder, number = Path(name), 2
    while (following := Path(f"{name}-{number}")).exists():
        folder, number = following, number + 1
    return folder

"""Packed annotations on disk: what was read of a large file, for the next process to map.

Reading COCO's annotations takes seconds and a gigabyte; a packed file is mapped in a tenth of a
second, and its pages are shared by all ranks and loader workers. It is a copy that may be deleted
at any time, and is not used unless it is whole (`packed_file`) and of the very file that is there.
"""

import glob
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from detengine import __version__
from detengine.data.packed_file import NotPackedError, map_packed, write_packed
from detengine.structures.ground_truth import GroundTruth

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

READER = 1
"""Raised whenever the same file would be read otherwise than before, or packed otherwise."""
SMALLEST = 4 << 20
"""Bytes of the smallest file whose annotations are kept; a smaller one is read in a tenth of a
second."""
SETTLED_SECONDS = 2.0
"""A file that was changed more recently may change again with the same time stamp: some file
systems count in steps of two seconds. It is kept by the next process that reads it."""

DependsOn = Sequence[Path] | None
"""The folders that reading looked into, beside the annotations; None: into more than can be
watched."""


def cache_folder() -> Path:
    """$DETENGINE_CACHE/annotations, or ~/.cache/detengine/annotations."""
    given = os.environ.get("DETENGINE_CACHE")
    base = Path(given).expanduser() if given else Path.home() / ".cache/detengine"
    return base / "annotations"


def cached(
    folder: Path | None,
    source: Path,
    images: Path | None,
    kind: str,
    read: Callable[[], tuple[GroundTruth, DependsOn]],
    *,
    smallest: int = SMALLEST,
    settled_seconds: float = SETTLED_SECONDS,
) -> GroundTruth:
    """What `read` reads of `source`, mapped from the folder where it is there.

    Called by any number of processes at once: the first one reads and writes, the others wait for
    it. folder: None keeps nothing. images, kind: what else the result depends on, the image folder
    and the format. Where the folder cannot be written to, a warning says so, and each process reads
    for itself. Raises what `read` raises, and then keeps nothing.
    """
    if folder is None or not source.is_file() or source.stat().st_size < smallest:
        return read()[0]
    where = str(source.resolve())
    known = {
        "reader": [READER, __version__],
        "source": where,
        "images": images and str(images.resolve()),
        "kind": kind,
    }
    key = hashlib.sha256(orjson.dumps([known[name] for name in ("source", "images", "kind")]))
    place = folder / f"{source.stem[:80]}-{key.hexdigest()[:32]}.packed"
    found = _map(place, known, level=logging.DEBUG)  # what is amiss is said below
    if found is not None:
        return found
    with _alone(place.with_suffix(".lock")) as may_write:
        found = _map(place, known, level=logging.WARNING)  # another process may have been first
        if found is not None:
            return found
        began = time.time()
        stamp = _stamp(source)
        truth, depends_on = read()
        if not may_write or depends_on is None:
            return truth
        stamps = {str(each.resolve()): _stamp(each) for each in (source, *depends_on)}
        newest = max(each[-1] for each in stamps.values() if each) * 1e-9
        if stamps[where] != stamp or newest > began - settled_seconds:
            logger.info("%s has just been changed; it is kept when it is read again", source)
            return truth
        return _kept(place, truth, known | {"stamps": stamps})


def _stamp(path: Path) -> list[int] | None:
    """What differs once a file or a folder has changed; None where there is none.

    The time of its last change of any kind cannot be set, as copying tools set that of its content.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    size = 0 if path.is_dir() else found.st_size
    return [size, found.st_mtime_ns, max(found.st_mtime_ns, found.st_ctime_ns)]


def _map(place: Path, known: dict[str, Any], *, level: int) -> GroundTruth | None:
    """The annotations of a packed file; None unless it is whole and of what is there now.

    level: at which it is logged that the file is damaged.
    """

    def is_current(label: dict[str, Any]) -> bool:
        stamps = label["stamps"]
        return label == known | {"stamps": stamps} and all(
            _stamp(Path(path)) == was for path, was in stamps.items()
        )

    try:
        return map_packed(place, is_current)
    except FileNotFoundError:
        return None
    except NotPackedError as error:
        logger.log(level, "%s; it is made anew", error)
        return None
    except OSError as error:
        logger.log(level, "%s cannot be read (%s); going on without it", place, error)
        return None


def _kept(place: Path, truth: GroundTruth, label: dict[str, Any]) -> GroundTruth:
    """Write it and map what was written, so that this process shares it, too."""
    try:
        write_packed(place, truth, label)
        mapped = map_packed(place, lambda _: True)
    except (OSError, NotPackedError) as error:
        logger.warning(_CANNOT_KEEP, place.parent, error)
        return truth
    logger.info("the annotations of %s are kept in %s", label["source"], place)
    return truth if mapped is None else mapped


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Wait until no other process is here. Gives whether anything can be written beside `path`.

    The lock goes with the process, however that ends. Where the system has no locks (Windows, some
    network file systems), several may be here at once: each writes the same, and whole.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        logger.warning(_CANNOT_KEEP, path.parent, error)
        yield False
        return
    with file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
                _remove_leftovers(path)
        except OSError as error:
            logger.info("%s cannot be locked (%s); going on without", path, error)
        yield True


def _remove_leftovers(lock: Path) -> None:
    """Remove what processes that were killed have half written. Called by who has the lock."""
    for path in lock.parent.glob(f"{glob.escape(lock.stem)}.packed.*.tmp"):
        with suppress(OSError):
            path.unlink()


_CANNOT_KEEP = (
    "annotations cannot be kept in %s (%s), so that each process reads them for itself; set "
    "DETENGINE_CACHE to a folder that can be written to"
)

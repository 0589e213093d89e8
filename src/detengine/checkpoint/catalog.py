"""Weights by name: a file, an address, a model of torchvision's or timm's, or of the catalog.

Downloads are over https and compared with a checksum. They are kept in a folder, and their
checksums beside them, so that a file is fetched once and damage is noticed.
"""

import glob
import hashlib
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit

import torch

from detengine.checkpoint.caffe2_catalog import CATALOG, SERVER, SHA256, address_of
from detengine.checkpoint.download import HTTPS, download
from detengine.checkpoint.published import (
    TIMM,
    TORCHVISION,
    Source,
    digits_in,
    find_published,
)
from detengine.disk.checksums import sha256_of
from detengine.disk.writing import naming
from detengine.distributed import comm
from detengine.untrusted.addresses import without_secrets

_logger = logging.getLogger("detengine.checkpoint")

_SHA256_DIGITS = 64
_RECORDS = (".sha256", ".address", ".part")
"""What stands beside a file, behind its name."""
_DAY = 24 * 60 * 60
_DIGITS_HINT = (
    " (Digits at the end of a file's name are taken for the first ones of its sha256, unless "
    "#sha256= follows.)"
)


def find_weights(name: str) -> Path:
    """The file of the weights, downloaded if need be. All ranks call it; one of a machine fetches.

    name: a path, which is returned as it is; an address https://..., which ends with
    #sha256=<64 hex digits>, or whose file's name ends with the first of them as torch.hub's do
    (-0676ba61.pth); catalog://ImageNetPretrained/... and catalog://Caffe2Detectron/...;
    torchvision://maskrcnn_resnet50_fpn_v2, which may end with one of its weights (/COCO_V1); or
    timm://resnet50, which may end with one of its tags (.a1_in1k).
    A file is looked for in $DETENGINE_CACHE (~/.cache/detengine/weights), under the last part of
    its address; where the predecessor kept it, if it is of the catalog or its checksum is known;
    and in torch.hub's folder, if that is. Its checksum is compared at every use.
    Raises ValueError for an unknown name, an address that is not encrypted or has no checksum, and
    a file whose checksum differs, and OSError with the address, the places and the cure if it can
    neither be found nor fetched; on all ranks alike.
    """
    source = find_source(name)
    return Path(name) if source is None else _on_this_machine(source)


def find_source(name: str) -> Source | None:
    """Where named weights come from; None for a path. Raises ValueError for an unknown name."""
    if name.startswith(CATALOG):
        address = address_of(name.removeprefix(CATALOG))
        return Source(address, _file_name(address), SHA256.get(address))
    if name.startswith((TORCHVISION, TIMM)):
        return find_published(name)
    if name.startswith(HTTPS):
        return _of_address(name)
    shown = without_secrets(name)
    if name.startswith("http://"):
        raise ValueError(
            f"{shown} is not encrypted: anybody on the way can send other weights; expected "
            "https://. Where there is none, fetch the file by other means and name its path."
        )
    if re.match(r"[A-Za-z][\w+.-]+:/", name):  # two letters: C:/ is a disk
        raise ValueError(
            f"{shown} is no address of a known kind; expected a path, https://, {CATALOG}, "
            f"{TORCHVISION} or {TIMM}"
        )
    return None


def _of_address(name: str) -> Source:
    address, _, fragment = name.partition("#")
    if "@" in address.split("/")[2]:
        raise ValueError(
            f"{without_secrets(name)} was given with a user's name or password in it, which would "
            "stand in every record of the run. Fetch the file by other means and name its path."
        )
    expected = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if fragment and expected is None:
        raise ValueError(
            f"{without_secrets(name)} ends with #{fragment}; expected #sha256= and 64 hexadecimal "
            "digits"
        )
    file_name = _file_name(address)
    sha256 = expected[1].lower() if expected else SHA256.get(address) or digits_in(address)
    return Source(address, file_name, sha256, is_listed=address.startswith(f"{SERVER}/"))


def _on_this_machine(source: Source) -> Path:
    """Rank 0 fetches first, then the first rank of each other machine, which may share its cache.

    All ranks call it, and raise together. torchrun numbers a machine's ranks in a row, and says in
    LOCAL_RANK how far each is from the first.
    """
    rank = comm.get_rank()
    first = rank - int(os.environ.get("LOCAL_RANK", "0")) if comm.is_distributed() else rank
    found: dict[int, Path] = {}
    for is_my_turn in (rank == 0, rank == first != 0):
        outcomes = comm.all_gather(_try_to_find(source) if is_my_turn else None)
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, Exception):
                raise outcome
            if outcome is not None:
                found[index] = outcome
    return found[first]


def _try_to_find(source: Source) -> Path | Exception:
    try:
        return _find_or_fetch(source)
    except (OSError, ValueError) as error:  # raised when all ranks know
        return error


def _file_name(address: str) -> str:
    """The last part of the path; of Caffe2's models, which are all called the same, the whole."""
    try:
        path = urlsplit(address).path
    except ValueError as error:  # such as an open bracket
        raise ValueError(f"{without_secrets(address)} is no address: {error}") from None
    name = unquote(path.rsplit("/", 1)[-1])
    if name in ("", ".", "..") or not name.isprintable() or name.endswith(_RECORDS):
        raise ValueError(
            f"{without_secrets(address)} names no file of weights; expected an address such as "
            "https://.../x.pth"
        )
    return re.sub(r"[/\\:]", "_", path if name == "model_final.pkl" else name)


def cache_folder() -> Path:
    """$DETENGINE_CACHE, or ~/.cache/detengine/weights."""
    given = os.environ.get("DETENGINE_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache/detengine/weights"


def _predecessors_folder() -> Path:
    """Where maskrcnn_benchmark/utils/model_zoo.py kept its downloads, under the same names."""
    home = Path(os.environ.get("TORCH_HOME", "~/.torch"))
    return Path(os.environ.get("TORCH_MODEL_ZOO", home / "models")).expanduser()


def find_kept(name: str) -> Path | None:
    """As find_weights, of what is on this machine already: nothing is downloaded."""
    source = find_source(name)
    return Path(name) if source is None else _kept(source)


def _find_or_fetch(source: Source) -> Path:
    kept = _kept(source)
    if kept is None:
        kept = _own_place(source)
        _fetch(source, kept, _places(source))
    return kept


def _kept(source: Source) -> Path | None:
    for place in _places(source):
        if place.is_file():
            _raise_if_checksum_differs(place, source)
            return place
    return None


def _places(source: Source) -> list[Path]:
    """Where the file is looked for; in the first it is put."""
    places = [_own_place(source)]
    if source.sha256 is not None or source.address.startswith(f"{SERVER}/"):
        # elsewhere a file is known by its name alone, which is not enough for any other address
        places.append(_predecessors_folder() / source.file_name)
    if source.sha256 is not None:
        places.append(Path(torch.hub.get_dir()) / "checkpoints" / source.file_name)
    return places


def _own_place(source: Source) -> Path:
    """In the cache; where another address already has the name, with a prefix."""
    place = cache_folder() / source.file_name
    origin = _beside(place, ".address")
    if not origin.is_file() or origin.read_text().strip() == source.shown:
        return place
    prefix = hashlib.sha256(source.shown.encode()).hexdigest()[:8]
    return place.with_name(f"{prefix}-{source.file_name}")


def _beside(place: Path, suffix: str) -> Path:
    return place.with_name(place.name + suffix)


def _raise_if_checksum_differs(place: Path, source: Source) -> None:
    """Against the known checksum, or its first digits, and the one written at the download."""
    record = _beside(place, ".sha256")
    known = [source.sha256 or ""]
    if len(known[0]) < _SHA256_DIGITS and record.is_file():
        known.extend(record.read_text().split()[:1])
    if not any(known):
        return
    found = sha256_of(place)
    for expected in known:
        if not found.startswith(expected):
            verb = "is" if len(expected) == _SHA256_DIGITS else "begins with"
            raise ValueError(
                f"the weights in {place} are damaged, or are others: their sha256 is {found}, but "
                f"that of {source.shown} {verb} {expected}. Delete the file to "
                f"have it downloaded again.{_DIGITS_HINT * (verb != 'is')}"
            )


def _fetch(source: Source, place: Path, looked_in: list[Path]) -> None:
    """Download aside, compare, then rename: what is at `place` is always whole."""
    shown = source.shown
    if source.sha256 is None and not source.is_listed:
        raise ValueError(
            f"{shown} has no checksum, and without one nobody can tell whether what is sent is "
            f"what was published. Name it as {shown}#sha256=<64 hexadecimal digits>: they are "
            "published beside the file, or `sha256sum FILE` tells those of a copy that you trust."
        )
    _logger.info("downloading %s to %s", shown, place)
    with _aside(place) as aside:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            told = download(source.address, aside)
        except (OSError, ValueError, HTTPException) as error:  # HTTPError is an OSError
            raise OSError(_cannot_fetch(source, place, looked_in, error)) from error
        found, expected = sha256_of(aside), source.sha256 or told
        if expected is None:
            _logger.info("no checksum of %s is known; from now on it is %s", shown, found)
        elif not found.startswith(expected):
            raise ValueError(
                f"what {shown} sent has the sha256 {found}, but {expected} was expected; nothing "
                "was kept. Is the checksum right? Otherwise try again."
                + _DIGITS_HINT
                * (len(expected) < _SHA256_DIGITS)
            )
        with naming(place):  # several processes may be at this place, each with the same
            _beside(place, ".sha256").write_text(f"{found}  {place.name}\n")
            _beside(place, ".address").write_text(f"{shown}\n")
            aside.replace(place)


@contextmanager
def _aside(place: Path) -> Iterator[Path]:
    """A name in the same folder, of this process alone; nothing is left there, nor of yesterday's
    that were killed."""
    for left in place.parent.glob(f"{glob.escape(place.name)}.*.part"):
        with suppress(OSError):
            if left.stat().st_mtime < time.time() - _DAY:
                left.unlink()
    aside = _beside(place, f".{secrets.token_hex(8)}.part")
    try:
        yield aside
    finally:
        aside.unlink(missing_ok=True)


def _cannot_fetch(source: Source, place: Path, looked_in: list[Path], error: Exception) -> str:
    return (
        f"the weights {source.shown} are not on this machine and could not be downloaded: {error}. "
        f"Looked for {' and '.join(map(str, looked_in))}. Fetch the file elsewhere and put it "
        f"at {place}, or set DETENGINE_CACHE to the folder that holds {place.name}, or "
        "MODEL.WEIGHT to the file itself."
    )

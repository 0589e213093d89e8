"""Weights by name: a file, an address, a model of torchvision's or timm's, or of the catalog.

Downloads are kept in a folder, and their checksums beside them, so that a file is fetched once and
damage is noticed. The catalog is that of maskrcnn_benchmark/config/paths_catalog.py.
"""

import hashlib
import logging
import os
import re
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

import torch

from detengine.checkpoint.published import TIMM, TORCHVISION, Source, find_published
from detengine.distributed import comm

_logger = logging.getLogger("detengine.checkpoint")

_CATALOG = "catalog://"
_SERVER = "https://dl.fbaipublicfiles.com/detectron"
_SHA256_DIGITS = 64
_TIMEOUT = 30
"""Seconds without an answer before a server is given up."""

_IMAGENET = {
    "MSRA/R-50": "ImageNetPretrained/MSRA/R-50.pkl",
    "MSRA/R-50-GN": "ImageNetPretrained/47261647/R-50-GN.pkl",
    "MSRA/R-101": "ImageNetPretrained/MSRA/R-101.pkl",
    "MSRA/R-101-GN": "ImageNetPretrained/47592356/R-101-GN.pkl",
    "FAIR/20171220/X-101-32x8d": "ImageNetPretrained/20171220/X-101-32x8d.pkl",
}
_DETECTRON = {
    "35857197/e2e_faster_rcnn_R-50-C4_1x": "01_33_49.iAX0mXvW",
    "35857345/e2e_faster_rcnn_R-50-FPN_1x": "01_36_30.cUF7QR7I",
    "35857890/e2e_faster_rcnn_R-101-FPN_1x": "01_38_50.sNxI7sX7",
    "36761737/e2e_faster_rcnn_X-101-32x8d-FPN_1x": "06_31_39.5MIHi1fZ",
    "35858791/e2e_mask_rcnn_R-50-C4_1x": "01_45_57.ZgkA7hPB",
    "35858933/e2e_mask_rcnn_R-50-FPN_1x": "01_48_14.DzEQe4wC",
    "35861795/e2e_mask_rcnn_R-101-FPN_1x": "02_31_37.KqyEK4tT",
    "36761843/e2e_mask_rcnn_X-101-32x8d-FPN_1x": "06_35_59.RZotkLKI",
    "37129812/e2e_mask_rcnn_X-152-32x8d-FPN-IN5k_1.44x": "09_35_36.8pzTQKYK",
    "37697547/e2e_keypoint_rcnn_R-50-FPN_1x": "08_42_54.kdzV35ao",
}
"""The date and signature in each model's address."""

SHA256 = {
    f"{_SERVER}/ImageNetPretrained/MSRA/R-50.pkl": (
        "c1f810370472bd7f9cd516f74b64bb5984aa78c7de1613e56e9f74f2ee01b4c4"
    ),
}
"""What is known of published files."""


def find_weights(name: str) -> Path:
    """The file of the weights, downloaded if need be. All ranks call it; one of a machine fetches.

    name: a path, which is returned as it is; an address http(s)://..., which may end with
    #sha256=<64 hex digits>; catalog://ImageNetPretrained/... and catalog://Caffe2Detectron/...;
    torchvision://maskrcnn_resnet50_fpn_v2, which may end with one of its weights (/COCO_V1); or
    timm://resnet50, which may end with one of its tags (.a1_in1k).
    A file is looked for in $DETENGINE_CACHE (~/.cache/detengine/weights), under the last part of
    its address; where the predecessor kept it, if it is of the catalog or its checksum is known;
    and in torch.hub's folder, if that is. Its checksum is compared at every use.
    Raises ValueError for an unknown name or a file whose checksum differs, and OSError with the
    address, the places and the cure if it can neither be found nor fetched; on all ranks alike.
    """
    source = find_source(name)
    return Path(name) if source is None else _on_this_machine(source)


def find_source(name: str) -> Source | None:
    """Where named weights come from; None for a path. Raises ValueError for an unknown name."""
    if name.startswith(_CATALOG):
        address = _address_of(name.removeprefix(_CATALOG))
        return Source(address, _file_name(address), SHA256.get(address))
    if name.startswith((TORCHVISION, TIMM)):
        return find_published(name)
    if not name.startswith(("http://", "https://")):
        if re.match(r"[A-Za-z][\w+.-]+:/", name):  # two letters: C:/ is a disk
            raise ValueError(
                f"{name} is no address of a known kind; expected a path, http://, https://, "
                f"{_CATALOG}, {TORCHVISION} or {TIMM}"
            )
        return None
    address, _, fragment = name.partition("#")
    expected = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if fragment and expected is None:
        raise ValueError(
            f"{name} ends with #{fragment}; expected #sha256= and 64 hexadecimal digits, or nothing"
        )
    sha256 = expected[1].lower() if expected else SHA256.get(address)
    return Source(address, _file_name(address), sha256)


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


def _address_of(name: str) -> str:
    """The address of a catalog's name, which is without catalog://."""
    known = {f"ImageNetPretrained/{each}": f"{_SERVER}/{path}" for each, path in _IMAGENET.items()}
    known |= {f"Caffe2Detectron/COCO/{each}": _detectron_address(each) for each in _DETECTRON}
    if name not in known:
        nearest = get_close_matches(name, known, 1, 0.0)[0]
        raise ValueError(
            f"{_CATALOG}{name} is not in the catalog of weights; did you mean "
            f"{_CATALOG}{nearest}? It has: {', '.join(known)}"
        )
    return known[name]


def _detectron_address(name: str) -> str:
    model_id, model_name = name.split("/")
    data = "keypoints_coco_2014" if "keypoint" in model_name else "coco_2014"
    return (
        f"{_SERVER}/{model_id}/12_2017_baselines/{model_name}.yaml.{_DETECTRON[name]}/output/train/"
        f"{data}_train%3A{data}_valminusminival/generalized_rcnn/model_final.pkl"
    )


def _file_name(address: str) -> str:
    """The last part of the path; of Caffe2's models, which are all called the same, the whole."""
    try:
        path = urlsplit(address).path
    except ValueError as error:  # such as an open bracket
        raise ValueError(f"{address} is no address: {error}") from None
    name = unquote(path.rsplit("/", 1)[-1])
    if name in ("", ".", "..") or not name.isprintable():
        raise ValueError(f"{address} names no file; expected an address such as https://.../x.pth")
    return (path if name == "model_final.pkl" else name).replace("/", "_")


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
    if source.sha256 is not None or source.address.startswith(_SERVER):
        # elsewhere a file is known by its name alone, which is not enough for any other address
        places.append(_predecessors_folder() / source.file_name)
    if source.sha256 is not None:
        places.append(Path(torch.hub.get_dir()) / "checkpoints" / source.file_name)
    return places


def _own_place(source: Source) -> Path:
    """In the cache; where another address already has the name, with a prefix."""
    place = cache_folder() / source.file_name
    origin = _beside(place, ".address")
    if not origin.is_file() or origin.read_text().strip() == source.address:
        return place
    prefix = hashlib.sha256(source.address.encode()).hexdigest()[:8]
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
    found = _sha256(place)
    for expected in known:
        if not found.startswith(expected):
            verb = "is" if len(expected) == _SHA256_DIGITS else "begins with"
            raise ValueError(
                f"the weights in {place} are damaged, or are others: their sha256 is {found}, but "
                f"that of {source.address} {verb} {expected}. Delete the file to have it "
                "downloaded again."
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(source: Source, place: Path, looked_in: list[Path]) -> None:
    """Download aside, compare, then rename: what is at `place` is always whole."""
    _logger.info("downloading %s to %s", source.address, place)
    with _aside(place) as aside:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            _download(source.address, aside)
        except (OSError, ValueError, HTTPException) as error:  # HTTPError is an OSError
            raise OSError(_cannot_fetch(source, place, looked_in, error)) from error
        found = _sha256(aside)
        if not found.startswith(source.sha256 or ""):
            raise ValueError(
                f"what {source.address} sent has the sha256 {found}, but {source.sha256} was "
                "expected; nothing was kept. Is the checksum right? Otherwise try again."
            )
        _beside(place, ".sha256").write_text(f"{found}  {place.name}\n")
        _beside(place, ".address").write_text(f"{source.address}\n")
        aside.replace(place)


@contextmanager
def _aside(place: Path) -> Iterator[Path]:
    """A name in the same folder, of this process alone; nothing is left there."""
    aside = _beside(place, f".{comm.get_rank()}-{os.getpid()}.part")
    try:
        yield aside
    finally:
        aside.unlink(missing_ok=True)


def _download(address: str, aside: Path) -> None:
    """Raises OSError if the server does not answer, refuses, or sends less than it announced."""
    request = urllib.request.Request(address, headers={"User-Agent": "detengine"})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except HTTPError as refusal:
        refusal.close()  # it holds the connection
        raise
    with answer, aside.open("wb") as file:
        shutil.copyfileobj(answer, file)
        announced = answer.headers.get("Content-Length")
    received = aside.stat().st_size
    if announced is not None and received != int(announced):
        raise OSError(f"{received} of {announced} bytes came")


def _cannot_fetch(source: Source, place: Path, looked_in: list[Path], error: Exception) -> str:
    return (
        f"the weights {source.address} are not on this machine and could not be downloaded: "
        f"{error}. Looked for {' and '.join(map(str, looked_in))}. Fetch the file elsewhere and "
        f"put it at {place}, or set DETENGINE_CACHE to the folder that holds {place.name}, or "
        "MODEL.WEIGHT to the file itself."
    )

"""Checkpoint files: never half written, damage is noticed, and opening one runs no code."""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detengine.disk.checksums import checked_file, read_digests, sha256_of
from detengine.disk.writing import sync
from detengine.distributed.out_of_memory import is_out_of_memory
from detengine.untrusted.disguise import raise_if_disguised
from detengine.untrusted.excerpt import excerpt, listed
from detengine.untrusted.pickles import UnfitPickleError
from detengine.untrusted.tensors import InflatedArchiveError, load_tensors

_PLAIN = (bool, int, float, str, bytes, type(None))


def save_file(path: Path, data: Mapping[str, Any]) -> None:
    """Write tensors and plain values to path, and its sha256 to path + ".sha256".

    Killed at any moment, the path holds the old file or the new one, whole, with its checksum.
    The same data give the same bytes. Raises TypeError for a value that is neither a tensor nor
    plain, and OSError, naming the folder, if it cannot be written.
    """
    raise_if_not_plain(data)
    with checked_file(path) as aside, aside.open("wb") as file:
        torch.save(data, file)  # given a path, torch puts its name into the bytes
        sync(file)


def load_file(path: Path, *, verify: bool = True) -> dict[str, Any]:
    """The entries of a checkpoint, on the CPU; `model` is always among them.

    A bare state dict, as torchvision publishes them, comes back as `{"model": state dict}`. The
    checksum is verified where its file is there, else those that an archive has of its parts;
    verify: False where another process has done it.
    Raises FileNotFoundError, IsADirectoryError, or ValueError for a file that is damaged, would run
    code, takes far more to open than it has bytes, or is no checkpoint.
    """
    raise_if_no_file(path)
    if verify and not raise_if_checksum_differs(path):
        raise_if_part_differs(path)
    raise_if_web_page(path)
    try:
        data = load_tensors(path)
    except Exception as error:  # whatever a strange file makes the reader raise
        if is_out_of_memory(error):
            raise
        raise ValueError(_why_unreadable(path, error)) from error
    raise_if_disguised(path, data)
    if isinstance(data, Mapping) and are_tensors(data.get("model")):
        return dict(data)
    if are_tensors(data):
        return {"model": data}
    found = _in_words(data)
    if isinstance(data, Mapping) and isinstance(data.get("model"), Mapping):
        found += f", and under 'model' {_in_words(data['model'])}"
    raise ValueError(
        f"{path} is no checkpoint: it holds {found}; expected a dict whose 'model' maps names to "
        "tensors, or such a mapping itself. Save the weights as torch.save({'model': state_dict})."
    )


def are_tensors(value: Any) -> bool:
    """Whether value is a mapping that has tensors, and nothing else."""
    has_items = isinstance(value, Mapping) and bool(value)
    return has_items and all(isinstance(each, Tensor) for each in value.values())


def _in_words(value: Any) -> str:
    """What a file holds: "a dict of state_dict (dict), epoch (int)", with ten entries at most."""
    if not isinstance(value, Mapping):
        return f"a {type(value).__name__}"
    if not value:
        return "an empty dict"
    return f"a dict of {listed(f'{_shown(k)} ({type(v).__name__})' for k, v in value.items())}"


def _shown(name: object) -> str:
    return name[:60] if isinstance(name, str) else excerpt(name)


def raise_if_not_plain(value: Any, place: str = "") -> None:
    """Raise TypeError, naming the place, unless all of value is tensors and plain types."""
    if isinstance(value, Tensor) or type(value) in _PLAIN:
        return
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            raise_if_not_plain(key, f"{place}, a key")
            raise_if_not_plain(item, f"{place}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            raise_if_not_plain(item, f"{place}[{index}]")
    else:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(
            f"checkpoint{place} is a {kind}; a checkpoint holds tensors and plain values only "
            "(dict, list, tuple, str, bytes, int, float, bool, None), so that opening it runs no "
            "code. Convert it, for example by float(x), x.tolist() or torch.from_numpy(x)."
        )


def raise_if_no_file(path: Path) -> None:
    """Raise FileNotFoundError, IsADirectoryError or ValueError unless path is a file with bytes."""
    others = _others_in(path if path.is_dir() else path.parent)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected a checkpoint file. {others}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}. {others}")
    if path.stat().st_size == 0:
        raise ValueError(f"the checkpoint {path} is empty: its writing was cut off. {others}")


def raise_if_checksum_differs(path: Path) -> bool:
    """Raise ValueError if the checksum beside a file is not the file's; whether there is one."""
    expected = read_digests(path)
    if not expected:
        return False
    digest = sha256_of(path)
    if digest not in expected:
        raise ValueError(
            f"the checkpoint {path} is damaged: its sha256 is {digest}, but "
            f"{path.name}.sha256 says {expected[0]}. Copy it again, or use another one. "
            f"{_others_in(path.parent, path)}"
        )
    return True


def raise_if_part_differs(path: Path) -> None:
    """Raise ValueError if a part of an archive is not what its own checksum says.

    torch does not compare them. An archive of which torch was told to write none is taken as it is,
    and what is no archive left to who reads it.
    """
    try:
        archive = zipfile.ZipFile(path)
    except Exception:  # whatever a damaged directory makes it raise
        return
    with archive:
        if not any(entry.CRC for entry in archive.infolist()):
            return
        try:
            damaged = archive.testzip()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            damaged = f"of which is said: {error}"
    if damaged is not None:
        raise ValueError(
            f"the checkpoint {path} is damaged: its part {damaged} is not what was written (its "
            f"checksum differs). Copy it again, or use another one. {_others_in(path.parent, path)}"
        )


def raise_if_web_page(path: Path) -> None:
    """Raise ValueError for a page that a server sent in a file's place."""
    with path.open("rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(
            f"{path} is a web page and no weights: the server sent it in the file's place, to say "
            "that it is gone or to ask for a login. Look into it, delete it, and fetch the file."
        )


def _others_in(folder: Path, damaged: Path | None = None) -> str:
    files = [
        file for suffix in ("pth", "pkl", "safetensors") for file in folder.glob(f"*.{suffix}")
    ]
    names = sorted(file.name for file in files if file != damaged)
    if not names:
        return f"There is no {'other ' if damaged else ''}.pth file in {folder.absolute()}."
    return f"In {folder.absolute()} there are: {', '.join(names)}."


def _why_unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, InflatedArchiveError):
        return f"{path} {error}."
    if isinstance(error, UnfitPickleError):
        return (
            f"{path} is damaged, or was made to keep its reader busy for ever: {error}. Expected "
            "tensors and plain values, as torch.save({'model': state_dict}) writes them."
        )
    with path.open("rb") as file:
        start = file.read(2)
    is_archive, is_pickle = start == b"PK", start[:1] == b"\x80"
    if isinstance(error, pickle.UnpicklingError) and (is_archive or is_pickle):
        return (
            f"{path} holds Python objects{_names_of_objects(path)}, and opening those could run "
            "any code, so it is not opened. Expected tensors and plain values only: where you "
            "trust the file, save its weights alone with torch.save({'model': state_dict})."
        )
    cut_off = not _is_whole_archive(path) if is_archive else is_pickle
    if cut_off:
        return (
            f"the checkpoint {path} is truncated: its writing or copying was cut off "
            f"({path.stat().st_size:,} bytes are there). {_others_in(path.parent, path)}"
        )
    return f"{path} is not a checkpoint: torch.save did not write it. Expected a .pth file."


def _is_whole_archive(path: Path) -> bool:
    """Whether an archive has its directory, which is at its end."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # a directory that says what cannot be
        return False


def _names_of_objects(path: Path) -> str:
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # files of before torch 1.6 have no such index, damaged ones anything
        return ""
    return f" ({', '.join(sorted(names))})" if names else ""

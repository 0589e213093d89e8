"""Checkpoint files: never half written, damage is noticed, and opening one runs no code."""

import hashlib
import os
import pickle
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_PLAIN = (bool, int, float, str, bytes, type(None))


def save_file(path: Path, data: Mapping[str, Any]) -> None:
    """Write tensors and plain values to path, and its sha256 to path + ".sha256".

    Killed at any moment, the path holds the old file or the new one, whole, with its checksum.
    The same data give the same bytes. Raises TypeError for a value that is neither a tensor nor
    plain, and OSError, naming the folder, if it cannot be written.
    """
    raise_if_not_plain(data)
    aside = path.with_name(path.name + ".tmp")
    checksums = path.with_name(path.name + ".sha256")
    try:
        _write_aside(aside, data)
        digest = _sha256(aside)
        if path.exists():
            # Until it is replaced the old file stands at path: both checksums hold for a moment.
            old_digests = _read_digests(checksums) or [_sha256(path)]
            _write_digests(checksums, path.name, [digest, *old_digests])
            _replace(aside, path)
            _write_digests(checksums, path.name, [digest])
        else:
            _write_digests(checksums, path.name, [digest])
            _replace(aside, path)
    except (OSError, RuntimeError) as error:
        leftovers = [aside] if path.exists() else [aside, checksums]
        for leftover in leftovers:
            with suppress(OSError):
                leftover.unlink()
        raise _cannot_write(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write a small text file that is never half there, not even after a power cut.

    Raises OSError, naming the folder, if it cannot be written.
    """
    try:
        _write_text(path, text)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _write_text(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".tmp")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _replace(aside, path)
    except OSError:
        with suppress(OSError):
            aside.unlink()
        raise


def load_file(path: Path, *, verify: bool = True) -> dict[str, Any]:
    """The entries of a checkpoint, on the CPU; `model` is always among them.

    A bare state dict, as torchvision publishes them, comes back as `{"model": state dict}`. The
    checksum is verified where its file is there; verify: False where another process has done it.
    Raises FileNotFoundError, IsADirectoryError, or ValueError for a file that is damaged, would run
    code, or is no checkpoint.
    """
    raise_if_no_file(path)
    if verify:
        raise_if_checksum_differs(path)
    raise_if_web_page(path)
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a strange file makes the reader raise
        raise ValueError(_why_unreadable(path, error)) from error
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
    entries = [f"{name} ({type(each).__name__})" for name, each in list(value.items())[:10]]
    return f"a dict of {', '.join(entries)}{', ...' if len(value) > 10 else ''}"


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


def _write_aside(aside: Path, data: Mapping[str, Any]) -> None:
    with aside.open("wb") as file:  # given a path, torch puts its name into the bytes
        torch.save(data, file)
        file.flush()
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_digests(checksums: Path) -> list[str]:
    """The digests in a file as sha256sum writes it; none if there is no such file.

    Raises ValueError if the file holds none.
    """
    if not checksums.is_file():
        return []
    lines = checksums.read_text(encoding="utf-8", errors="replace").splitlines()
    digests = [line.split(maxsplit=1)[0] for line in lines if line.strip()]
    if not digests:
        raise ValueError(
            f"{checksums} is empty, so nobody can tell whether {checksums.stem} is whole. Copy "
            f"both again; where you trust {checksums.stem}, delete {checksums.name}."
        )
    return digests


def _write_digests(checksums: Path, name: str, digests: list[str]) -> None:
    _write_text(checksums, "".join(f"{digest}  {name}\n" for digest in digests))


def _replace(aside: Path, path: Path) -> None:
    """Rename, and where the system can make the renaming last through a power cut."""
    aside.replace(path)
    if os.name == "posix":
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _cannot_write(path: Path, error: OSError | RuntimeError) -> OSError:
    cause = error.__context__  # torch turns a full disk into a RuntimeError
    if isinstance(error, RuntimeError) and isinstance(cause, OSError):
        error = cause
    folder = path.parent
    if not folder.is_dir():
        cure = f"there is no folder {folder}; create it or set another OUTPUT_DIR"
    elif not os.access(folder, os.W_OK):
        cure = f"the folder {folder} may not be written to; allow it or set another OUTPUT_DIR"
    else:
        free = shutil.disk_usage(folder).free / 2**20
        cure = f"{free:,.0f} MiB are free in {folder}; make room there or set another OUTPUT_DIR"
    number, reason = (error.errno, error.strerror) if isinstance(error, OSError) else (None, error)
    message = f"cannot write {path.name}: {reason}; {cure}"
    return OSError(message) if number is None else OSError(number, message)


def raise_if_no_file(path: Path) -> None:
    """Raise FileNotFoundError, IsADirectoryError or ValueError unless path is a file with bytes."""
    others = _others_in(path if path.is_dir() else path.parent)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected a checkpoint file. {others}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}. {others}")
    if path.stat().st_size == 0:
        raise ValueError(f"the checkpoint {path} is empty: its writing was cut off. {others}")


def raise_if_checksum_differs(path: Path) -> None:
    """Raise ValueError if the checksum beside a file is there and not the file's."""
    expected = _read_digests(path.with_name(path.name + ".sha256"))
    if not expected:
        return
    digest = _sha256(path)
    if digest not in expected:
        raise ValueError(
            f"the checkpoint {path} is damaged: its sha256 is {digest}, but "
            f"{path.name}.sha256 says {expected[0]}. Copy it again, or use another one. "
            f"{_others_in(path.parent, path)}"
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
    with path.open("rb") as file:
        start = file.read(2)
    is_archive, is_pickle = start == b"PK", start[:1] == b"\x80"
    if isinstance(error, pickle.UnpicklingError) and (is_archive or is_pickle):
        return (
            f"{path} holds Python objects{_names_of_objects(path)}, and opening those could run "
            "any code, so it is not opened. Expected tensors and plain values only: where you "
            "trust the file, save its weights alone with torch.save({'model': state_dict})."
        )
    cut_off = not zipfile.is_zipfile(path) if is_archive else is_pickle
    if cut_off:
        return (
            f"the checkpoint {path} is truncated: its writing or copying was cut off "
            f"({path.stat().st_size:,} bytes are there). {_others_in(path.parent, path)}"
        )
    return f"{path} is not a checkpoint: torch.save did not write it. Expected a .pth file."


def _names_of_objects(path: Path) -> str:
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # files of before torch 1.6 have no such index, damaged ones anything
        return ""
    return f" ({', '.join(sorted(names))})" if names else ""

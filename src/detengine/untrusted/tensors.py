"""Files that torch.save wrote, wherever they are from: tensors and plain values, nothing that runs.

torch's own reader looks up no object that is not a tensor's (weights_only). It does unpack what
unpacks to more than the memory, and hash what takes for ever; such files are not given to it.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from detengine.untrusted.pickles import raise_if_unfit

_INFLATED = 10
"""How many times larger than itself an archive's content may be; torch compresses nothing."""
_ARCHIVE = b"PK"
_PICKLES_OF_OLD = 5
"""A file of before torch 1.6: its magic number, its version, its system, the object, its keys."""


class InflatedArchiveError(ValueError):
    """An archive that would unpack to far more than it has bytes. The text names no file."""


def load_tensors(path: Path, *, mmap: bool = False) -> Any:
    """What a file holds, on the CPU. mmap: the tensors are read from disk when they are used.

    Raises InflatedArchiveError, UnfitPickleError, pickle.UnpicklingError for objects of other
    kinds, and whatever strange bytes make torch raise.
    """
    with path.open("rb") as file:
        is_archive = file.read(len(_ARCHIVE)) == _ARCHIVE
    if is_archive:
        _raise_if_inflated(path)
        content = torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")  # as torch.load does
        raise_if_unfit(io.BytesIO(content), len(content))
    else:
        size = path.stat().st_size
        with path.open("rb") as file:
            for _ in range(_PICKLES_OF_OLD):
                if file.tell() < size:
                    raise_if_unfit(file, size)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _raise_if_inflated(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except Exception:  # damaged in any way: torch says so
        return
    if unpacked > _INFLATED * path.stat().st_size:
        raise InflatedArchiveError(
            f"would unpack to {unpacked:,} bytes, although it has {path.stat().st_size:,}: it is "
            "damaged, or was made to fill the memory"
        )

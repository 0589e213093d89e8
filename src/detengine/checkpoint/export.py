"""Weights written for others: `.pth` and `.safetensors` with our names, `.pkl` with Caffe2's."""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from detengine.checkpoint.caffe2_writer import to_blobs
from detengine.checkpoint.entries import FORMAT
from detengine.checkpoint.files import save_file
from detengine.checkpoint.safetensors_file import to_metadata
from detengine.disk.checksums import checked_file
from detengine.disk.writing import sync

SUFFIXES = (".pth", ".safetensors", ".pkl")


def export_weights(
    path: Path,
    state: Mapping[str, Tensor],
    model: nn.Module,
    *,
    class_names: Sequence[str] = (),
    config: str = "",
) -> int:
    """Write weights as the path's suffix says, its sha256 beside it; returns how many tensors.

    state: by the model's names, all of its tensors or those of some parts. class_names: of labels
    1, 2, ...; config: the model's, as YAML; every format keeps both, and reading takes them up.
    Killed at any moment, the path holds the old file or the new one, whole.
    Raises ValueError for another suffix, and where a `.pkl` has no names for the model's tensors;
    OSError if the file cannot be written.
    """
    raise_if_no_format(path)
    own = {"categories": list(class_names), "config": config}
    if path.suffix == ".pkl":
        blobs = to_blobs(state, model)
        arrays = {name: tensor.numpy() for name, tensor in blobs.items()}
        with _whole(path) as file:
            _ArrayPickler(file, protocol=2).dump({"blobs": arrays} | own)
        return len(blobs)
    if path.suffix == ".safetensors":
        copies = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        contiguous = {name: tensor.contiguous() for name, tensor in copies.items()}
        with _whole(path) as file:
            file.write(to_safetensors(contiguous, to_metadata(list(class_names), config)))
    else:
        save_file(path, {"format": FORMAT, "model": dict(state)} | own)
    return len(state)


def raise_if_no_format(path: Path) -> None:
    """Raise ValueError for a suffix that no format of ours has."""
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"{path} has the suffix {path.suffix or 'none'!r}; expected {', '.join(SUFFIXES)}, "
            "which says the format to write"
        )


class _ArrayPickler(pickle.Pickler):
    """Pickles an array in a way that every NumPy reads; NumPy's own since 2.0 is not."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            return np.ndarray, (obj.shape, obj.dtype.str, np.ascontiguousarray(obj).tobytes())
        return NotImplemented


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to; once all is written it is at path, with its checksum beside it."""
    with checked_file(path) as aside, aside.open("wb") as file:
        yield file
        sync(file)

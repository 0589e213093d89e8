"""Pickles of arrays (`.pkl`), as of Caffe2 Detectron and detectron2; nothing in one runs."""

import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from detengine.checkpoint.files import (
    raise_if_checksum_differs,
    raise_if_no_file,
    raise_if_web_page,
)
from detengine.checkpoint.own_entries import own_entries

_WEIGHTS = ("blobs", "model")
"""Where the arrays stand: in Caffe2 Detectron's files of whole models, and in detectron2's."""
_NUMBERS = frozenset(
    np.dtype(code) for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "bool")
)


def load_pickle(path: Path) -> dict[str, Any]:
    """`{"model": tensors}` of a pickle of Python 2 or 3; one of ours has categories and config too.

    The checksum is verified where its file is there. Raises FileNotFoundError, IsADirectoryError,
    or ValueError for a file that is damaged, holds anything but arrays and plain values, or whose
    weights are no arrays of numbers.
    """
    raise_if_no_file(path)
    raise_if_checksum_differs(path)
    raise_if_web_page(path)
    data = _unpickle(path)
    entries = data if isinstance(data, Mapping) else {}
    arrays = next((entries[name] for name in _WEIGHTS if name in entries), data)
    if not isinstance(arrays, Mapping) or not arrays:
        raise ValueError(
            f"{path} holds no weights but a {type(data).__name__}; expected a dict of arrays, or "
            "one that has such a dict under 'blobs' (Caffe2 Detectron) or 'model' (detectron2)."
        )
    tensors = {_text(path, name): _tensor(path, name, array) for name, array in arrays.items()}
    return {"model": tensors} | ({} if arrays is data else own_entries(path, entries))


def _unpickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            _raise_if_memo_outgrows(file, path.stat().st_size)
            return _ArrayUnpickler(file, encoding="latin1").load()  # Python 2's arrays are text
    except _ForbiddenObject as error:
        raise ValueError(
            f"{path} holds the Python object {error}, and opening such could run any code, so it "
            "is not opened. Expected NumPy arrays and plain values only, as the weights of Caffe2 "
            "Detectron and detectron2 are; where you trust the file, save its arrays alone."
        ) from error
    except Exception as error:  # whatever a strange file makes the unpickler raise
        raise ValueError(
            f"{path} is truncated or no pickle of Caffe2 Detectron or detectron2 "
            f"({str(error) or type(error).__name__}). Copy it again."
        ) from error


def _raise_if_memo_outgrows(file: BinaryIO, size: int) -> None:
    """Raise ValueError for a memo larger than the file: C's unpickler allocates up to its index."""
    for opcode, index, _ in pickletools.genops(file):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(index or 0) > size:
            raise ValueError(f"it numbers an object {index}, but has {size} bytes")
    file.seek(0)


def _text(path: Path, name: object) -> str:
    if not isinstance(name, str):
        raise ValueError(f"the weights in {path} have the name {name!r}; expected text.")
    return name


def _tensor(path: Path, name: object, array: object) -> Tensor:
    if not isinstance(array, np.ndarray) or array.dtype.newbyteorder("=") not in _NUMBERS:
        kind = f"array of {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(
            f"{name!r} in {path} is of the kind {kind}; expected an array of numbers. Is it a "
            "pickle of Caffe2 Detectron's or detectron2's weights?"
        )
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


class _ForbiddenObject(Exception):  # noqa: N818  (its text is the object's name, no message)
    """A pickle asks for something else than an array."""


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and plain values, and looks nothing else up."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core.", "numpy.core.")
        try:
            part = _ARRAY_PARTS[module, name]
        except KeyError:
            raise _ForbiddenObject(f"{module}.{name}") from None
        # A new function each time, since a pickle can set the attributes of what it gets.
        return lambda *arguments: part(*arguments)


def _make_empty_array(_subtype: object, shape: tuple[int, ...], _dtype: object) -> Any:
    """NumPy's _reconstruct, for the empty array that a pickle fills afterwards."""
    if shape != (0,):
        raise ValueError(f"an array is to be made with the shape {shape}, and filled afterwards")
    return np.empty(0, dtype=np.int8)


def _make_filled_array(shape: tuple[int, ...], dtype: Any, content: bytes) -> Any:
    """np.ndarray as our own files have it; never without its content, which would be memory of
    any size with anything in it."""
    return np.frombuffer(content, dtype=dtype).reshape(shape)


def _make_array(content: bytes, dtype: Any, shape: tuple[int, ...], order: str) -> Any:
    """NumPy's _frombuffer, which makes the array in protocol 5."""
    return np.frombuffer(content, dtype=dtype).reshape(shape, order="F" if order == "F" else "C")


def _make_dtype(code: str, align: int = 0, _copy: int = 1) -> Any:
    """A dtype of its own, since a pickle changes what it gets; Python 2 wrote integers as flags."""
    return np.dtype(code, align=bool(align), copy=True)


def _encode(text: str, encoding: str) -> bytes:
    """An array's bytes, which Python 3 writes as text in protocol 2."""
    if encoding != "latin1":
        raise ValueError(f"an array's bytes are to be read as {encoding!r}, not as latin1")
    return text.encode("latin1")


_ARRAY_PARTS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _make_empty_array,
    ("numpy.core.numeric", "_frombuffer"): _make_array,
    ("numpy", "ndarray"): _make_filled_array,
    ("numpy", "dtype"): _make_dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,  # what a state dict is
}

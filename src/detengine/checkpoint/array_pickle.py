"""Pickles of arrays (`.pkl`), as of Caffe2 Detectron and detectron2; nothing in one runs."""

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detengine.checkpoint.files import (
    raise_if_checksum_differs,
    raise_if_no_file,
    raise_if_web_page,
)
from detengine.checkpoint.own_entries import own_entries
from detengine.untrusted.disguise import raise_if_disguised
from detengine.untrusted.excerpt import excerpt
from detengine.untrusted.pickles import UnfitPickleError, raise_if_unfit

_WEIGHTS = ("blobs", "model")
"""Where the arrays stand: in Caffe2 Detectron's files of whole models, and in detectron2's."""
_NUMBERS = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"})
"""NumPy's codes of the numbers that weights may be of."""


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
    raise_if_disguised(path, data)
    entries = data if isinstance(data, Mapping) else {}
    arrays = next((entries[name] for name in _WEIGHTS if name in entries), data)
    if not isinstance(arrays, Mapping) or not arrays:
        raise ValueError(
            f"{path} holds no weights but a {type(data).__name__}; expected a dict of arrays, or "
            "one that has such a dict under 'blobs' (Caffe2 Detectron) or 'model' (detectron2)."
        )
    made: dict[int, Tensor] = {}  # what has several names in the file is in memory once, too
    tensors = {}
    for name, array in arrays.items():
        tensor = made[id(array)] if id(array) in made else _tensor(path, name, array)
        tensors[_text(path, name)] = made[id(array)] = tensor
    return {"model": tensors} | ({} if arrays is data else own_entries(path, entries))


def _unpickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            raise_if_unfit(file, path.stat().st_size)
            file.seek(0)
            return _ArrayUnpickler(file, encoding="latin1").load()  # Python 2's arrays are text
    except _ForbiddenObject as error:
        raise ValueError(
            f"{path} holds the Python object {error}, and opening such could run any code, so it "
            "is not opened. Expected NumPy arrays and plain values only, as the weights of Caffe2 "
            "Detectron and detectron2 are; where you trust the file, save its arrays alone."
        ) from error
    except UnfitPickleError as error:
        raise ValueError(
            f"{path} is damaged, or was made to keep its reader busy for ever: {error}. Expected "
            "NumPy arrays and plain values, as in the weights of Caffe2 Detectron and detectron2."
        ) from error
    except Exception as error:  # whatever a strange file makes the unpickler raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{path} is truncated or no pickle of Caffe2 Detectron or detectron2 "
            f"({reason:.200}). Copy it again."
        ) from error


def _text(path: Path, name: object) -> str:
    if not isinstance(name, str):
        raise ValueError(f"the weights in {path} have the name {excerpt(name)}; expected text.")
    return name


def _tensor(path: Path, name: object, array: object) -> Tensor:
    if not isinstance(array, _Array) or array.numbers is None:
        kind = f"array of {array.dtype}" if isinstance(array, _Array) else type(array).__name__
        raise ValueError(
            f"{excerpt(name)} in {path} is of the kind {kind:.80}; expected an array of numbers. "
            "Is it a pickle of Caffe2 Detectron's or detectron2's weights?"
        )
    return torch.from_numpy(np.array(array.numbers, dtype=array.numbers.dtype.newbyteorder("=")))


class _ForbiddenObject(Exception):  # noqa: N818  (its text is the object's name, no message)
    """A pickle asks for something else than an array."""


class _ArrayUnpickler(pickle.Unpickler):
    """Builds arrays and plain values, and looks nothing else up.

    What it builds are our own `_Array` and `_Dtype`: NumPy's own take a state from a pickle as it
    is, flags of memory included.
    """

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core.", "numpy.core.")
        try:
            part = _ARRAY_PARTS[module, name]
        except KeyError:
            raise _ForbiddenObject(f"{module}.{name}") from None
        # A new function each time, since a pickle can set the attributes of what it gets.
        return lambda *arguments: part(*arguments)


class _Dtype:
    """The kind of an array's numbers. code: NumPy's, without the byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, _align: object = 0, _copy: object = 1) -> None:
        text = code.decode() if isinstance(code, bytes) else str(code)
        is_ordered = text[:1] in _ORDERS
        self.code, self.order = (text[1:], text[0]) if is_ordered else (text, "")

    def __str__(self) -> str:
        return f"{self.order}{self.code}"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """state: a version, the byte order, and what numbers do not have."""
        if not isinstance(state, tuple) or len(state) < 8 or state[1] not in _ORDERS:
            raise ValueError("the state of a dtype is none that NumPy writes")
        if self.code in _NUMBERS and state[2:8] != (None, None, None, -1, -1, 0):
            raise ValueError(f"a dtype of the numbers {self.code} has a state that is none of them")
        self.order = state[1]


class _Array:
    """An array, as NumPy pickles it. numbers: None for what weights cannot be of."""

    __slots__ = ("dtype", "numbers")

    def __init__(
        self, shape: object = (0,), dtype: object = "u1", content: object = b"", order: str = "C"
    ) -> None:
        if not isinstance(dtype, _Dtype | str):
            raise ValueError(f"the dtype of an array is a {type(dtype).__name__}")
        self.dtype = _Dtype(dtype) if isinstance(dtype, str) else dtype
        self.numbers: np.ndarray[Any, Any] | None = None
        if self.dtype.code in _NUMBERS and isinstance(shape, tuple):
            raw = content.encode("latin1") if isinstance(content, str) else content  # Python 2's
            numbers = np.frombuffer(raw, dtype=str(self.dtype))  # type: ignore[call-overload]
            self.numbers = numbers.reshape(shape, order="F" if order == "F" else "C")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """state: a version, the shape, the dtype, whether columns come first, and the bytes."""
        _, shape, dtype, is_fortran, content = state
        _Array.__init__(self, shape, dtype, content, "F" if is_fortran else "C")


_ORDERS = ("<", ">", "=", "|")


def _make_empty_array(_subtype: object, _shape: object, _dtype: object) -> _Array:
    """NumPy's _reconstruct, for the empty array that a pickle fills afterwards."""
    return _Array()


def _make_array(content: object, dtype: object, shape: object, order: str) -> _Array:
    """NumPy's _frombuffer, which makes the array in protocol 5."""
    return _Array(shape, dtype, content, order)


def _encode(text: str, encoding: str) -> bytes:
    """An array's bytes, which Python 3 writes as text in protocol 2."""
    if encoding != "latin1":
        raise ValueError(f"an array's bytes are to be read as {encoding!r}, not as latin1")
    return text.encode("latin1")


_ARRAY_PARTS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _make_empty_array,
    ("numpy.core.numeric", "_frombuffer"): _make_array,
    ("numpy", "ndarray"): _Array,  # as our own files have it, with its content
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,  # what a state dict is
}

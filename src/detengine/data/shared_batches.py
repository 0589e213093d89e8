"""Batches on their way from the loader's workers, through shared memory that is used again.

torch makes a shared memory for each tensor of a batch: a file, a mapping, and every page of it, in
the worker and in the main process, for each batch anew. Here a worker keeps a few blocks, each of
which holds the large tensors of one batch. The main process reads them where they are, and when the
last of them is gone the block is free for another batch. Small tensors travel in the message, so
that a box that is kept somewhere does not keep a block.
"""

import io
import os
import pickle
import uuid
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from detengine.data.collate import collate
from detengine.structures.batch import Batch, Sample

Bytes = NDArray[np.uint8]

_BLOCKS = 4
"""Of each worker: torch's prefetching keeps two batches on their way, a loop holds two more."""
_SMALL = 16384
"""Bytes of a tensor that travels in the message."""
_HEADER = 64
"""Bytes before a block's tensors; the first is 1 while the main process has any of them."""
_ALIGNMENT = 64
_WHOLE = 2**20
"""A block's size is a multiple of it, so that a slightly larger batch still fits."""


class PackedTensor(NamedTuple):
    """Where a tensor's values are. place: an offset in the block, or the values themselves."""

    place: int | bytes
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class SharedBatches:
    """A loader's `collate_fn`: batches as `collate` makes them, whichever process makes them.

    In the main process it is `collate`. In a worker it returns what arrives as that batch.
    """

    def __init__(self, collate_samples: Callable[[Sequence[Sample]], Batch] = collate) -> None:
        self._collate = collate_samples
        self._name = uuid.uuid4().hex
        self._own: list[_Block] = []
        """A worker's blocks."""
        self.received: dict[tuple[int, int], Bytes] = {}
        """The main process's view of them, by worker and position."""
        _RECEIVERS[self._name] = self

    def __getstate__(self) -> dict[str, Any]:
        """For a process that is not forked."""
        return self.__dict__ | {"received": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """It may be a main process, of a loader that was handed to it."""
        self.__dict__.update(state)
        _RECEIVERS[self._name] = self

    def __call__(self, samples: Sequence[Sample]) -> Any:
        batch = self._collate(samples)
        worker = get_worker_info()
        return batch if worker is None else self.pack(batch, worker.id)

    def pack(self, batch: Any, worker_id: int) -> "_Packed":
        """Put a batch into a block, which is then taken until the main process lets go of it."""
        message = io.BytesIO()
        packer = _Packer(message)
        packer.dump(batch)
        table, size = _places(packer.tensors)
        position, block = self._free_block(size)
        is_new = not block.is_known
        block.fill(table, packer.tensors)
        memory = block.memory if is_new else None
        return _Packed((self._name, worker_id, position, memory, table, message.getvalue()))

    def _free_block(self, size: int) -> "tuple[int, _Block]":
        """A block of that many bytes and its position; beyond _BLOCKS, one for this batch alone."""
        for position, block in enumerate(self._own):
            if block.is_free():
                if block.memory.numel() < size:
                    largest = max(each.memory.numel() for each in self._own)
                    self._own[position] = _Block(max(size, largest))
                return position, self._own[position]
        block = _Block(size)
        if len(self._own) == _BLOCKS:
            return _BLOCKS, block
        self._own.append(block)
        return len(self._own) - 1, block


def most_shared_memory(bytes_of_batch: int, workers: int) -> int:
    """Bytes that the blocks of so many workers take, if all their batches are as large."""
    return workers * _BLOCKS * -(-(_HEADER + bytes_of_batch) // _WHOLE) * _WHOLE


_RECEIVERS: weakref.WeakValueDictionary[str, SharedBatches] = weakref.WeakValueDictionary()


class _Block:
    """Shared memory of a worker. is_known: the main process has it already."""

    def __init__(self, size: int) -> None:
        whole = -(-size // _WHOLE) * _WHOLE
        self.memory: Tensor = torch.zeros(whole, dtype=torch.uint8)
        self.memory.share_memory_()  # type: ignore[no-untyped-call]
        self._flag: Bytes = self.memory.numpy()
        self.is_known = False

    def is_free(self) -> bool:
        return not self._flag[0]

    def fill(self, table: list[PackedTensor], tensors: list[Tensor]) -> None:
        self._flag[0] = 1
        self.is_known = True
        for packed, tensor in zip(table, tensors, strict=True):
            if isinstance(packed.place, int):
                part = self.memory[packed.place : packed.place + tensor.nbytes].view(packed.dtype)
                part.as_strided(packed.shape, packed.strides).copy_(tensor)


class _Packed:
    """What a worker sends: it arrives as the batch."""

    def __init__(self, message: tuple[Any, ...]) -> None:
        self._message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return _receive, self._message


class _Packer(ForkingPickler):
    """Pickles a batch without its tensors, which it collects in their order."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.tensors: list[Tensor] = []
        self._index_of: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> int | None:
        """A tensor's index; of one that is there twice, the same. None for what torch sends."""
        if type(obj) is not Tensor or not _is_plain(obj):
            return None
        index = self._index_of.setdefault(id(obj), len(self.tensors))
        if index == len(self.tensors):
            self.tensors.append(obj)
        return index


class _Unpacker(pickle.Unpickler):
    def __init__(self, message: bytes, tensors: list[Tensor]) -> None:
        super().__init__(io.BytesIO(message))
        self._tensors = tensors

    def persistent_load(self, pid: Any) -> Tensor:
        index: int = pid
        return self._tensors[index]


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is its values, dtype and shape and nothing more."""
    return (
        tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not (tensor.requires_grad or tensor.is_quantized or tensor.is_neg())
        and not tensor.dtype.is_complex
    )


def _places(tensors: list[Tensor]) -> tuple[list[PackedTensor], int]:
    """Where each tensor goes, and how many bytes the large ones need together."""
    table, end = [], _HEADER
    for tensor in tensors:
        place: int | bytes
        strides: tuple[int, ...]
        if tensor.nbytes <= _SMALL:
            place = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
            strides = ()
        else:
            place, strides = end, _dense_strides(tensor)
            end += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        table.append(PackedTensor(place, tensor.dtype, tuple(tensor.shape), strides))
    return table, end


def _dense_strides(tensor: Tensor) -> tuple[int, ...]:
    """Its own where it is dense in any order of its dimensions, such as by pixel."""
    return torch.empty_like(tensor, device="meta").stride()


def _receive(
    name: str,
    worker_id: int,
    position: int,
    memory: Tensor | None,
    table: list[PackedTensor],
    message: bytes,
) -> Any:
    """In the main process: the batch, whose large tensors lie in the worker's block."""
    known = _RECEIVERS[name].received
    if memory is not None and position < _BLOCKS:
        known[worker_id, position] = memory.numpy()
    block = known[worker_id, position] if memory is None else memory.numpy()
    lease = block[:]  # an array of this batch's own, which its tensors keep
    weakref.finalize(lease, _give_back, block, os.getpid()).atexit = False
    return _Unpacker(message, [_view(packed, lease) for packed in table]).load()


def _view(packed: PackedTensor, lease: Bytes) -> Tensor:
    values: Any = lease
    offset, count = 0, int(np.prod(packed.shape, dtype=np.int64))
    if isinstance(packed.place, bytes):
        values = bytearray(packed.place)  # which can be written to
    else:
        offset = packed.place
    if not count:
        return torch.empty(packed.shape, dtype=packed.dtype)
    flat = torch.frombuffer(values, dtype=packed.dtype, count=count, offset=offset)
    if packed.strides:
        return flat.as_strided(packed.shape, packed.strides)
    return flat.view(packed.shape)


def _give_back(block: Bytes, process_id: int) -> None:
    """Once the last tensor is gone; a forked process's copy of it is not the last."""
    if os.getpid() == process_id:
        block[0] = 0

"""A copy of a run's state in host memory, to be written while the training goes on."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, UntypedStorage


def snapshot(data: Mapping[str, Any], *, clone: bool) -> dict[str, Any]:
    """The same data with all tensors on the CPU.

    data: tensors and plain values only. clone: whether to copy what is on the CPU already, so that
    nothing done to the data later is seen; containers are copied in any case. Tensors that share
    their memory, such as tied weights, share the copy's too, so the two are saved to equal bytes.
    From a GPU all is copied into page-locked memory, and waited for once.
    """
    copies = _Copies(clone)
    copied = {name: copies.of(value) for name, value in data.items()}
    copies.wait()
    return copied


class _Copies:
    """The copy of each object and storage that was met, so that what is shared stays shared.

    The originals are held, so that no other object takes their ids meanwhile.
    """

    def __init__(self, clone: bool) -> None:
        self._clone = clone
        self._objects: dict[int, tuple[Any, Any]] = {}
        self._storages: dict[int, tuple[UntypedStorage, UntypedStorage]] = {}
        self._gpus: set[torch.device] = set()

    def of(self, value: Any) -> Any:
        if id(value) not in self._objects:
            self._objects[id(value)] = (value, self._copy(value))
        return self._objects[id(value)][1]

    def _copy(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value.detach())
        if isinstance(value, dict):
            items = [(key, self.of(item)) for key, item in value.items()]
            return OrderedDict(items) if type(value) is OrderedDict else dict(items)
        if isinstance(value, list):
            return [self.of(item) for item in value]
        if isinstance(value, tuple):
            return tuple(self.of(item) for item in value)
        return value

    def wait(self) -> None:
        for device in self._gpus:
            torch.cuda.current_stream(device).synchronize()

    def _tensor(self, tensor: Tensor) -> Tensor:
        if tensor.layout is not torch.strided or tensor.is_quantized:
            return tensor.to("cpu", copy=self._clone)
        tensor = tensor.resolve_conj().resolve_neg()
        original = tensor.untyped_storage()
        if original._cdata not in self._storages:
            self._storages[original._cdata] = (original, self._storage(original))
        _, storage = self._storages[original._cdata]
        empty = torch.empty(0, dtype=tensor.dtype)
        return empty.set_(storage, tensor.storage_offset(), tensor.size(), tensor.stride())

    def _storage(self, original: UntypedStorage) -> UntypedStorage:
        if original.device.type == "cpu":
            return original.clone() if self._clone else original  # type: ignore[no-untyped-call]
        content = torch.empty(0, dtype=torch.uint8, device=original.device).set_(original)
        if original.device.type != "cuda":
            return content.cpu().untyped_storage()
        self._gpus.add(original.device)
        locked = torch.empty(len(content), dtype=torch.uint8, pin_memory=True)
        return locked.copy_(content, non_blocking=True).untyped_storage()

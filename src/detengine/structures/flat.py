"""Many small tensors as few large ones, for one copy or one exchange in the place of many."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def group_by_kind(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Those of one device and one dtype together, which can be one tensor; in their order."""
    of_kind: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        of_kind.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    return list(of_kind.values())


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """A copy of all their values, in one dimension. tensors: of one kind, at least one."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@torch.no_grad()
def copy_from_flat(tensors: list[Tensor], flat: Tensor) -> None:
    """Give the tensors, in place, the values that `flatten` has put into one."""
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    shaped = [part.view_as(each) for part, each in zip(parts, tensors, strict=True)]
    torch._foreach_copy_(tensors, shaped)

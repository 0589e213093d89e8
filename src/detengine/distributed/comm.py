"""Talk between the ranks of a run. Without a process group there is one rank, and nothing is sent.

Every function that sends is a collective: all ranks call it, in the same order. Objects travel over
gloo, from host to host, also where tensors on GPUs travel over nccl.
"""

from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def _has_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    return dist.get_world_size() if _has_group() else 1


def get_rank() -> int:
    return dist.get_rank() if _has_group() else 0


def is_distributed() -> bool:
    """Whether there are other ranks."""
    return get_world_size() > 1


def is_main_process() -> bool:
    """Whether this is rank 0, the one that logs and writes."""
    return get_rank() == 0


def synchronize() -> None:
    """Wait until all ranks have come here."""
    if get_world_size() > 1:
        dist.barrier()


def all_gather(data: T) -> list[T]:
    """Every rank's data, in the order of the ranks, on every rank. data: anything that pickles."""
    if get_world_size() == 1:
        return [data]
    gathered: list[T | None] = [None] * get_world_size()
    dist.all_gather_object(gathered, data)
    return gathered  # type: ignore[return-value]  # each None has been replaced


def gather_bytes(data: bytes) -> Iterator[bytes]:
    """On rank 0 the data of all other ranks, from the last to rank 1; elsewhere nothing.

    A part is received when it is asked for, so that rank 0 need not hold them all; it must ask for
    each. The other ranks wait until theirs is taken.
    """
    if is_main_process():
        return (_receive_bytes(rank) for rank in range(get_world_size() - 1, 0, -1))
    dist.send(torch.tensor([len(data)]), dst=0)
    if data:
        dist.send(torch.frombuffer(bytearray(data), dtype=torch.uint8), dst=0)
    return iter(())


def _receive_bytes(rank: int) -> bytes:
    length = torch.zeros(1, dtype=torch.int64)
    dist.recv(length, src=rank)
    data = torch.empty(int(length), dtype=torch.uint8)
    if len(data):
        dist.recv(data, src=rank)
    return data.numpy().tobytes()


def broadcast(data: T, source: int = 0) -> T:
    """The data of rank `source`, on every rank; the other ranks' own is ignored. Must pickle."""
    if get_world_size() == 1:
        return data
    box = [data]
    dist.broadcast_object_list(box, src=source)
    return box[0]


@torch.no_grad()
def reduce_dict(values: Mapping[str, Tensor], average: bool = True) -> dict[str, Tensor]:
    """The mean (or the sum) over all ranks of each scalar, without its graph.

    values: scalar tensors of one floating dtype on the backend's device; all ranks have the same
    keys. As in the predecessor, the result counts on rank 0 only; on other ranks its values are
    undefined.
    """
    if get_world_size() == 1 or not values:
        return {name: value.detach() for name, value in values.items()}
    names = sorted(values)  # one order on all ranks
    reduced = torch.stack([values[name] for name in names])
    dist.reduce(reduced, dst=0)
    if average:
        reduced /= get_world_size()
    return dict(zip(names, reduced.unbind(), strict=True))

"""Where the ranks of one start meet, in a store that may hold what earlier starts left there."""

import json
import os
import socket
import time
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from detengine.distributed.failure import name_ranks

_NEWEST = "detengine/newest start"
_PAUSE_SECONDS = 0.02
_TRY_SECONDS = 5.0
_PATIENCE = timedelta(minutes=30)


def fresh_store(timeout: timedelta | None) -> Any:
    """A part of the launcher's store that no other start has used.

    All ranks call it, before their group is made in it. torchrun keeps one store for all restarts
    of a group, and torch connects to whatever addresses it finds there: those of processes that
    have ended (pytorch issue 135712, again in torch 2.15). TORCHELASTIC_RESTART_COUNT cannot tell
    the starts apart, because each machine counts its own. Under other launchers rank 0 keeps it.
    timeout: for all to come; None is torch's half an hour. Raises TimeoutError after it, which says
    who has not come.
    """
    timeout = timeout or _PATIENCE
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    else:
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        store = _store_of_rank_0(rank, timeout)
    store.set_timeout(timeout)
    return meet(store, rank, world_size, timeout)


def _store_of_rank_0(rank: int, timeout: timedelta) -> Any:
    """torch's own way to it is silent for nearly three times the timeout where rank 0 is not."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    deadline = time.monotonic() + timeout.total_seconds()
    while rank and not _is_answered(host, port):
        _pause(deadline, f"rank {rank} has found no rank 0 at {host}:{port}")
    return dist.TCPStore(  # type: ignore[attr-defined]  # exported where torch has it
        host, port, is_master=rank == 0, wait_for_workers=False, multi_tenant=True, timeout=timeout
    )


def _is_answered(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=_TRY_SECONDS).close()
    except OSError:
        return False
    return True


def meet(store: Any, rank: int, world_size: int, timeout: timedelta) -> Any:
    """The part of the store that this start's rank 0 has named; see `fresh_store`.

    A name may be an earlier rank 0's. So each rank leaves a word of its own under the name, and
    takes the name for this start's when somebody has read that word.
    """
    deadline = time.monotonic() + timeout.total_seconds()
    name = (
        _host(store, world_size, deadline)
        if rank == 0
        else _join(store, rank, world_size, deadline)
    )
    return dist.PrefixStore(name, store)  # type: ignore[attr-defined]  # where torch has it


def _host(store: Any, world_size: int, deadline: float) -> str:
    name = f"detengine/start {uuid.uuid4().hex}"
    store.set(_NEWEST, name)
    absent = list(range(1, world_size))
    while absent := [rank for rank in absent if not store.check([f"{name}/word/{rank}"])]:
        _pause(deadline, f"{name_ranks(absent)} did not come to rank 0")
    words = {rank: store.get(f"{name}/word/{rank}").decode() for rank in range(1, world_size)}
    words[0] = _word(world_size)
    store.set(f"{name}/read", json.dumps(words))
    _raise_if_worlds_differ(words)
    return name


def _join(store: Any, rank: int, world_size: int, deadline: float) -> str:
    word, name = _word(world_size), ""
    while True:
        if store.check([_NEWEST]) and (newest := store.get(_NEWEST).decode()) != name:
            name = newest
            store.set(f"{name}/word/{rank}", word)
        if name and store.check([f"{name}/read"]):
            words = {int(key): value for key, value in _words(store, name).items()}
            if words.get(rank) == word:
                _raise_if_worlds_differ(words)
                return name
        _pause(deadline, f"rank {rank} waits for rank 0, which has not come")


def _words(store: Any, name: str) -> dict[str, str]:
    words: dict[str, str] = json.loads(store.get(f"{name}/read"))
    return words


def _word(world_size: int) -> str:
    """A rank's own, of this start alone, with the number of ranks that it was told of."""
    return f"{uuid.uuid4().hex} {world_size}"


def _raise_if_worlds_differ(words: Mapping[int, str]) -> None:
    worlds = {rank: word.rpartition(" ")[2] for rank, word in sorted(words.items())}
    other = [rank for rank, world in worlds.items() if world != worlds[0]]
    if other:
        raise ValueError(
            f"WORLD_SIZE is {worlds[0]} on rank 0, but {worlds[other[0]]} on {name_ranks(other)}: "
            "start all ranks with the same number of them."
        )


def _pause(deadline: float, what: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(
            f"{what}: the ranks did not all start within the time that they had. Look at the log "
            "of the machine of the missing rank, or allow more time (DISTRIBUTED.TIMEOUT)."
        )
    time.sleep(_PAUSE_SECONDS)

"""Where the ranks of one start meet, in a store that may hold what earlier starts left there."""

import json
import os
import time
import uuid
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

_NEWEST = "detengine/newest start"
_PAUSE_SECONDS = 0.02
_PATIENCE = timedelta(minutes=30)


def fresh_store(timeout: timedelta | None) -> Any | None:
    """A part of torchrun's store that no other start has used; None under other launchers.

    All ranks call it, before their group is made in it. torchrun keeps one store for all restarts
    of a group, and torch connects to whatever addresses it finds there: those of processes that
    have ended (pytorch issue 135712, again in torch 2.15). TORCHELASTIC_RESTART_COUNT cannot tell
    the starts apart, because each machine counts its own.
    timeout: for all to come; None is torch's half an hour. Raises TimeoutError after it.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    timeout = timeout or _PATIENCE
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    store.set_timeout(timeout)
    return meet(store, rank, world_size, timeout)


def meet(store: Any, rank: int, world_size: int, timeout: timedelta) -> Any:
    """The part of the store that this start's rank 0 has named; see `fresh_store`.

    A name may be an earlier rank 0's. So each rank leaves a word of its own under the name, and
    takes the name for this start's when somebody has read that word.
    """
    deadline = time.monotonic() + timeout.total_seconds()
    name = _host(store, world_size, deadline) if rank == 0 else _join(store, rank, deadline)
    return dist.PrefixStore(name, store)  # type: ignore[attr-defined]  # where torch has it


def _host(store: Any, world_size: int, deadline: float) -> str:
    name = f"detengine/start {uuid.uuid4().hex}"
    store.set(_NEWEST, name)
    for rank in range(1, world_size):
        while not store.check([f"{name}/word/{rank}"]):
            _pause(deadline, f"rank {rank} has not come to rank 0")
    words = {rank: store.get(f"{name}/word/{rank}").decode() for rank in range(1, world_size)}
    store.set(f"{name}/read", json.dumps(words))
    return name


def _join(store: Any, rank: int, deadline: float) -> str:
    word, name = uuid.uuid4().hex, ""
    while True:
        if store.check([_NEWEST]) and (newest := store.get(_NEWEST).decode()) != name:
            name = newest
            store.set(f"{name}/word/{rank}", word)
        if name and store.check([f"{name}/read"]):
            words = json.loads(store.get(f"{name}/read"))
            if words.get(str(rank)) == word:
                return name
        _pause(deadline, f"rank {rank} waits for rank 0, which has not come")


def _pause(deadline: float, what: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(
            f"{what}: the ranks did not all start within the time that they had. Look at the log "
            "of the machine of the missing rank, or allow more time (DISTRIBUTED.TIMEOUT)."
        )
    time.sleep(_PAUSE_SECONDS)

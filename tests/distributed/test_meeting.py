"""Ranks that find each other among what earlier starts left in the store."""

import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from detengine.distributed.meeting import fresh_store, meet

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no stores")

LONG, SHORT = timedelta(seconds=10), timedelta(seconds=0.1)


@pytest.fixture
def store():
    return dist.HashStore()


def start(store, ranks: Sequence[int]) -> set[str]:
    """What each of three ranks finds in the part of the store where it writes its number last."""
    with ThreadPoolExecutor(3) as pool:
        places = list(pool.map(lambda rank: meet(store, rank, 3, LONG), ranks))
    for rank, place in zip(ranks, places, strict=True):
        place.append("who", str(rank))
    return {place.get("who").decode() for place in places}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_each_start_meets_in_a_part_of_the_store_of_its_own(store, order: Sequence[int]) -> None:
    everybody = {"".join(map(str, order))}
    assert [start(store, order) for _ in range(3)] == [everybody] * 3


def test_a_rank_that_has_waited_for_a_dead_rank_0_follows_the_new_one(store) -> None:
    with pytest.raises(TimeoutError, match="ranks 1 and 2 did not come to rank 0: the ranks did"):
        meet(store, 0, 3, SHORT)
    assert start(store, (1, 2, 0)) == {"120"}


def test_a_rank_0_that_never_comes_is_named(store) -> None:
    start(store, (0, 1, 2))
    with pytest.raises(TimeoutError, match=r"rank 2 waits for rank 0, .*DISTRIBUTED\.TIMEOUT"):
        meet(store, 2, 3, SHORT)


@pytest.fixture
def another_launcher(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """What a rank finds in its environment, one of three whose rank 0 is not there yet."""
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    return monkeypatch


def test_under_another_launcher_rank_0_keeps_the_store_and_says_who_does_not_come(
    another_launcher: pytest.MonkeyPatch,
) -> None:
    another_launcher.setenv("RANK", "0")
    with pytest.raises(TimeoutError, match="ranks 1 and 2 did not come to rank 0: the ranks"):
        fresh_store(SHORT)


def test_where_no_rank_0_is_the_others_say_so_when_their_time_is_over(
    another_launcher: pytest.MonkeyPatch,
) -> None:
    another_launcher.setenv("RANK", "2")
    with pytest.raises(TimeoutError, match=r"rank 2 has found no rank 0 at 127\.0\.0\.1:\d+: the"):
        fresh_store(SHORT)

"""Ranks that find each other among what earlier starts left in the store."""

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
    with pytest.raises(TimeoutError, match="rank 1 has not come to rank 0: the ranks did not all"):
        meet(store, 0, 3, SHORT)
    assert start(store, (1, 2, 0)) == {"120"}


def test_a_rank_0_that_never_comes_is_named(store) -> None:
    start(store, (0, 1, 2))
    with pytest.raises(TimeoutError, match=r"rank 2 waits for rank 0, .*DISTRIBUTED\.TIMEOUT"):
        meet(store, 2, 3, SHORT)


def test_without_torchruns_store_torch_meets_as_it_always_did(monkeypatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert fresh_store(LONG) is None

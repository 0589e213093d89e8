from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detengine.data.order import BatchOrder, Key, RankBatchSampler

groups = st.lists(st.integers(0, 2), min_size=1, max_size=30)


@given(groups, st.integers(1, 6), st.integers(0, 3))
def test_an_epoch_has_every_image_and_only_the_filling_twice(
    group_of: list[int], size: int, epoch: int
) -> None:
    order = BatchOrder(group_of, size, seed=0)
    count = order.batches_per_epoch
    batches = [order.batch(epoch * count + position) for position in range(count)]
    assert {each for each, _ in batches} == {epoch}
    seen = Counter(index for _, indices in batches for index in indices)
    assert set(seen) == set(range(len(group_of)))
    for group in set(group_of):
        members = [seen[index] for index, each in enumerate(group_of) if each == group]
        rounds, filled = divmod(-(-len(members) // size) * size, len(members))
        assert sorted(members) == [rounds] * (len(members) - filled) + [rounds + 1] * filled
    assert all(len({group_of[index] for index in indices}) == 1 for _, indices in batches)
    assert all(len(indices) == size for _, indices in batches)


def test_epochs_and_seeds_have_their_own_order() -> None:
    order = BatchOrder([0] * 40, 4, seed=0)
    epochs = [[order.batch(10 * epoch + i)[1] for i in range(10)] for epoch in range(2)]
    other = BatchOrder([0] * 40, 4, seed=1)
    assert epochs[0] != epochs[1]
    assert epochs[0] != [other.batch(i)[1] for i in range(10)]


def test_a_late_position_is_the_same_without_all_before_it() -> None:
    played = BatchOrder(torch.arange(23) % 2, 4, seed=3)
    batches = [played.batch(iteration) for iteration in range(100)]
    assert BatchOrder(torch.arange(23) % 2, 4, seed=3).batch(99) == batches[99]
    assert played.batch(17) == batches[17]


def _keys(order: BatchOrder, **options: int) -> list[list[Key]]:
    return list(RankBatchSampler(order, 12, **options))


@given(groups, st.sampled_from([1, 2, 3]), st.sampled_from([1, 2]))
def test_the_ranks_slices_together_are_the_whole_batch(
    group_of: list[int], world_size: int, accumulate: int
) -> None:
    order = BatchOrder(group_of, 6 * accumulate, seed=0)
    options = {"world_size": world_size, "accumulate": accumulate}
    ranks = [_keys(order, rank=rank, **options) for rank in range(world_size)]
    for iteration, whole in enumerate(_keys(order)):
        own = slice(iteration * accumulate, (iteration + 1) * accumulate)
        parts = [key for rank in ranks for micro_batch in rank[own] for key in micro_batch]
        assert parts == whole


def test_micro_batches_of_one_rank_are_the_slices_of_several() -> None:
    order = BatchOrder([0] * 30, 8, seed=0)
    ranks = [_keys(order, rank=rank, world_size=4) for rank in range(4)]
    assert _keys(order, accumulate=4) == [
        each for step in zip(*ranks, strict=True) for each in step
    ]


@pytest.mark.parametrize("start", [0, 1, 7, 12])
def test_a_run_may_start_anywhere_and_its_length_counts_from_0(start: int) -> None:
    order = BatchOrder([0] * 10, 4, seed=0)
    sampler = RankBatchSampler(order, 12, start, accumulate=2)
    assert list(sampler) == _keys(order, accumulate=2)[2 * start :]
    assert len(sampler) == 24


def test_nothing_to_order_and_impossible_divisions_are_refused() -> None:
    with pytest.raises(ValueError, match="no images"):
        BatchOrder([], 2, seed=0)
    with pytest.raises(ValueError, match="at least one image, not 0"):
        BatchOrder([0], 0, seed=0)
    with pytest.raises(ValueError, match="6 images cannot be divided among 4 ranks"):
        RankBatchSampler(BatchOrder([0], 6, seed=0), 1, world_size=4)

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detengine.data.order import BatchOrder, Key, RankBatchSampler

groups = st.lists(st.integers(0, 2), min_size=1, max_size=30)
repeated = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([1.0, 1.25, 1.3, 2.0, 3.7])),
    min_size=1,
    max_size=30,
)
"""The group and the repeat factor of each image."""


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


def test_the_order_is_the_one_that_runs_were_started_with() -> None:
    # as recorded before there were repeat factors
    order = BatchOrder([0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 0], 4, seed=7)
    assert order.batches_per_epoch == 3
    assert [order.batch(iteration) for iteration in (0, 1, 2, 3, 4, 5, 6, 80000)] == [
        (0, [2, 8, 5, 4]),
        (0, [10, 0, 7, 3]),
        (0, [3, 1, 6, 9]),
        (1, [4, 2, 8, 5]),
        (1, [6, 0, 9, 3]),
        (1, [10, 1, 7, 6]),
        (2, [3, 10, 1, 6]),
        (26666, [7, 0, 1, 9]),
    ]


def _repeating(images: list[tuple[int, float]], size: int) -> BatchOrder:
    factors = torch.tensor([factor for _, factor in images], dtype=torch.float64)
    return BatchOrder([group for group, _ in images], size, seed=5, repeat_factors=factors)


@given(groups, st.integers(1, 6), st.integers(0, 20))
def test_factors_of_one_change_nothing(group_of: list[int], size: int, iteration: int) -> None:
    plain = BatchOrder(group_of, size, seed=5)
    order = _repeating([(group, 1.0) for group in group_of], size)
    assert order.batches_per_epoch == plain.batches_per_epoch
    assert order.batch(iteration) == plain.batch(iteration)


@given(repeated, st.integers(1, 6), st.integers(0, 3))
def test_each_image_comes_its_factor_rounded_down_or_up_times_in_every_epoch(
    images: list[tuple[int, float]], size: int, epoch: int
) -> None:
    order = _repeating(images, size)
    count = order.batches_per_epoch
    batches = [order.batch(epoch * count + position) for position in range(count)]
    assert {each for each, _ in batches} == {epoch}
    assert all(len(indices) == size for _, indices in batches)
    for _, indices in batches:
        assert len({images[index % len(images)][0] for index in indices}) == 1
    # what fills a group's last batch has the index that it has elsewhere
    copies = sorted({index for _, indices in batches for index in indices})
    for image, (_, factor) in enumerate(images):
        own = [index // len(images) for index in copies if index % len(images) == image]
        assert own == list(range(len(own)))
        assert len(own) in (math.floor(factor), math.ceil(factor))


def test_over_many_epochs_each_image_comes_as_often_as_its_factor_says() -> None:
    images = [(index % 2, 1 + index**2 / 100) for index in range(20)]
    order = _repeating(images, 1)
    epochs = 800
    seen: Counter[int] = Counter()
    for epoch in range(epochs):
        start = epoch * order.batches_per_epoch
        batches = [order.batch(start + i)[1] for i in range(order.batches_per_epoch)]
        seen.update(index % 20 for index in {index for batch in batches for index in batch})
    for index, (_, factor) in enumerate(images):
        part = factor % 1
        four_sigma = 4 * math.sqrt(part * (1 - part) / epochs)
        assert abs(seen[index] / epochs - factor) <= four_sigma + 1e-9


def test_copies_are_spread_over_the_epoch() -> None:
    order = _repeating([(0, 5.0)] * 100, 5)
    batches = [order.batch(position)[1] for position in range(order.batches_per_epoch)]
    assert len(batches) == 100
    in_one_batch = sum(len({index % 100 for index in indices}) < 5 for indices in batches)
    assert in_one_batch < 25  # about 10 by chance


def test_a_late_position_of_repeated_images_is_the_same_without_all_before_it() -> None:
    images = [(index % 2, 1 + index / 7) for index in range(23)]
    played = _repeating(images, 4)
    batches = [played.batch(iteration) for iteration in range(200)]
    assert _repeating(images, 4).batch(199) == batches[199]
    assert played.batch(17) == batches[17]
    assert _repeating(images, 4).batch(80000)[0] == 80000 // played.batches_per_epoch


def _keys(order: BatchOrder, **options: int) -> list[list[Key]]:
    return list(RankBatchSampler(order, 12, **options))


@given(repeated, st.booleans(), st.sampled_from([1, 2, 3]), st.sampled_from([1, 2]))
def test_the_ranks_slices_together_are_the_whole_batch(
    images: list[tuple[int, float]], is_repeated: bool, world_size: int, accumulate: int
) -> None:
    order = BatchOrder([group for group, _ in images], 6 * accumulate, seed=0)
    if is_repeated:
        order = _repeating(images, 6 * accumulate)
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


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ([1.0, 2.0, 1.0], r"each of the 2 images needs one repeat factor, but they are \[3\]"),
        ([1.0, 0.5], "at least 1, but that of image 1 is 0.5"),
        ([math.inf, 1.0], "at least 1, but that of image 0 is inf"),
        ([1.0, math.nan], "at least 1, but that of image 1 is nan"),
    ],
)
def test_impossible_repeat_factors_are_refused(factors: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchOrder([0, 0], 2, seed=0, repeat_factors=torch.tensor(factors))

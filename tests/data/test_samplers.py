"""The literals are recordings of the predecessor's samplers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import BatchSampler, Sampler, SequentialSampler

from detengine.data.samplers import (
    DistributedSampler,
    GroupedBatchSampler,
    IterationBasedBatchSampler,
)


class Listed(Sampler[int]):
    def __init__(self, order: list[int]) -> None:
        self.order = order
        self.rounds = 0

    def __iter__(self) -> Iterator[int]:
        self.rounds += 1
        return iter(self.order)


def _grouped(case: dict[str, Any]) -> GroupedBatchSampler:
    drop_uneven = case["drop_uneven"]
    return GroupedBatchSampler(
        Listed(case["order"]), case["group_ids"], case["batch_size"], drop_uneven
    )


def _iterated(case: dict[str, Any]) -> IterationBasedBatchSampler:
    batches = BatchSampler(SequentialSampler(range(case["dataset"])), case["batch_size"], False)
    return IterationBasedBatchSampler(batches, case["num_iterations"], case["start_iter"])


def _distributed(case: dict[str, Any]) -> DistributedSampler:
    sampler = DistributedSampler(range(case["n"]), case["replicas"], case["rank"], case["shuffle"])
    sampler.set_epoch(case["epoch"])
    return sampler


GROUPS = [2, 2, 2, 0, 2, 2, 1, 2, 1, 2, 1, 0, 1, 2, 0, 0, 1, 1, 0, 2, 1, 2, 0]
PART = [6, 5, 11, 4, 12, 14, 7, 8, 21, 18, 22, 17, 9, 15, 16]


def test_groups_are_batched_in_the_predecessors_order() -> None:
    case = {"order": PART, "group_ids": GROUPS, "batch_size": 4, "drop_uneven": False}
    full = [[6, 12, 8, 17], [5, 4, 7, 21], [11, 14, 18, 22]]
    assert list(_grouped(case)) == [*full, [9], [15], [16]]
    assert list(_grouped({**case, "drop_uneven": True})) == full


def test_a_group_without_a_sampled_member_has_no_batch() -> None:
    case = {"order": [2, 0], "group_ids": [0, 1, 0], "batch_size": 2, "drop_uneven": False}
    assert list(_grouped(case)) == [[2, 0]]


def test_the_first_length_asked_for_is_that_of_the_first_round() -> None:
    sampler = _grouped({"order": PART, "group_ids": GROUPS, "batch_size": 4, "drop_uneven": False})
    assert len(sampler) == 6
    assert len(list(sampler)) == 6
    assert sampler.sampler.rounds == 1
    assert list(sampler) == list(sampler)
    assert sampler.sampler.rounds == 3


def test_batches_are_repeated_until_the_iterations_are_done() -> None:
    case = {"dataset": 7, "batch_size": 3, "num_iterations": 10, "start_iter": 4}
    assert list(_iterated(case)) == [[0, 1, 2], [3, 4, 5], [6], [0, 1, 2], [3, 4, 5], [6]]
    assert len(_iterated(case)) == 10
    assert list(_iterated({**case, "start_iter": 10})) == []


def test_each_round_sets_the_epoch_to_its_first_iteration() -> None:
    sampler = DistributedSampler(range(6), 1, 0, shuffle=True)
    batches = list(IterationBasedBatchSampler(BatchSampler(sampler, 2, False), 6))
    sampler.set_epoch(3)
    assert [index for batch in batches[3:] for index in batch] == list(sampler)


def test_an_empty_batch_sampler_is_refused_instead_of_turning_forever() -> None:
    empty = BatchSampler(SequentialSampler(range(0)), 2, False)
    with pytest.raises(ValueError, match="nothing to iterate over"):
        list(IterationBasedBatchSampler(empty, 3))


@pytest.mark.parametrize(
    ("rank", "shuffle", "epoch", "indices"),
    [
        (0, True, 0, [4, 1, 7, 5]),
        (1, True, 0, [3, 9, 0, 8]),
        (2, True, 0, [6, 2, 4, 1]),
        (0, True, 3, [6, 0, 3, 7]),
        (2, False, 0, [8, 9, 0, 1]),
    ],
)
def test_each_rank_has_the_predecessors_share(
    rank: int, shuffle: bool, epoch: int, indices: list[int]
) -> None:
    case = {"n": 10, "replicas": 3, "rank": rank, "shuffle": shuffle, "epoch": epoch}
    sampler = _distributed(case)
    assert list(sampler) == indices
    assert len(sampler) == 4


def test_fewer_images_than_ranks_are_repeated_for_all() -> None:
    shares = [list(DistributedSampler(range(2), 5, rank, False)) for rank in range(5)]
    assert shares == [[0], [1], [0], [1], [0]]


def test_without_a_process_group_there_is_one_rank() -> None:
    assert list(DistributedSampler(range(3), shuffle=False)) == [0, 1, 2]


def test_something_that_is_no_sampler_is_refused() -> None:
    with pytest.raises(ValueError, match="Sampler is needed"):
        GroupedBatchSampler([1, 2], [0, 0, 0], 2)  # type: ignore[arg-type]


def test_every_recorded_case_is_the_predecessors(shared: Path) -> None:
    recorded = json.loads((shared / "golden/small/samplers.json").read_text())
    for case in recorded["grouped"]:
        if "raises" in case:
            all_batches = _grouped({**case, "drop_uneven": False})
            assert sorted(i for batch in all_batches for i in batch) == sorted(case["order"])
        else:
            assert list(_grouped(case)) == case["batches"]
            assert len(_grouped(case)) == case["len"]
    for case in recorded["iteration"]:
        assert list(_iterated(case)) == case["batches"]
        assert len(_iterated(case)) == case["len"]
    for case in recorded["distributed"]:
        assert list(_distributed(case)) == case["indices"]
        assert len(_distributed(case)) == case["len"]

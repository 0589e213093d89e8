"""The predecessor's three samplers, with its signatures and its orders.

Our own loader takes its order from `order.BatchOrder`; these are for loops that bring their own.
"""

import math
from collections.abc import Iterator, Sequence, Sized

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Sampler

from detengine.distributed.comm import get_rank, get_world_size


class GroupedBatchSampler(BatchSampler):
    """Batches of one group each, in an order as close to the sampler's as that allows.

    A group's members are batched as the sampler gives them, and a batch comes where its first
    member came. drop_uneven: leave out batches of less than `batch_size`. The sampler need not give
    all images; a group of which it gives none (an error in the predecessor) has no batch.
    """

    def __init__(
        self,
        sampler: Sampler[int],
        group_ids: Sequence[int] | Tensor,
        batch_size: int,
        drop_uneven: bool = False,
    ) -> None:
        """group_ids: one for each image of the data set. Raises ValueError without a Sampler."""
        if not isinstance(sampler, Sampler):
            raise ValueError(
                f"a torch.utils.data.Sampler is needed, but this was given: {sampler!r}"
            )
        self.sampler = sampler
        self.group_ids = torch.as_tensor(group_ids)
        self.batch_size = batch_size
        self.drop_uneven = drop_uneven
        self._batches: list[list[int]] | None = None
        self._can_reuse_batches = False

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches
        if batches is None or not self._can_reuse_batches:
            batches = self._prepare_batches()
        self._batches, self._can_reuse_batches = batches, False
        return iter(batches)

    def __len__(self) -> int:
        """Of the last round begun; before the first, that is drawn now and then played."""
        if self._batches is None:
            self._batches, self._can_reuse_batches = self._prepare_batches(), True
        return len(self._batches)

    def _prepare_batches(self) -> list[list[int]]:
        members: dict[int, list[tuple[int, int]]] = {}
        for position, index in enumerate(self.sampler):
            members.setdefault(int(self.group_ids[index]), []).append((position, index))
        batches = [
            group[start : start + self.batch_size]
            for group in members.values()
            for start in range(0, len(group), self.batch_size)
        ]
        batches.sort(key=lambda batch: batch[0])
        kept = [each for each in batches if len(each) == self.batch_size or not self.drop_uneven]
        return [[index for _, index in batch] for batch in kept]


class IterationBasedBatchSampler(BatchSampler):
    """A batch sampler played again and again, from `start_iter` until `num_iterations` are done.

    A sampler with `set_epoch` is given the iteration at which a round begins.
    """

    def __init__(
        self, batch_sampler: BatchSampler, num_iterations: int, start_iter: int = 0
    ) -> None:
        self.batch_sampler = batch_sampler
        self.num_iterations = num_iterations
        self.start_iter = start_iter

    def __iter__(self) -> Iterator[list[int]]:
        iteration = self.start_iter
        while iteration < self.num_iterations:
            if hasattr(self.batch_sampler.sampler, "set_epoch"):
                self.batch_sampler.sampler.set_epoch(iteration)
            before = iteration
            for batch in self.batch_sampler:
                if iteration == self.num_iterations:
                    return
                iteration += 1
                yield batch
            if iteration == before:
                raise ValueError("the batch sampler is empty: there is nothing to iterate over")

    def __len__(self) -> int:
        return self.num_iterations


class DistributedSampler(Sampler[int]):
    """One rank's share of the indices, filled from their start so that all ranks have as many."""

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
    ) -> None:
        """num_replicas, rank: of the process group where None."""
        self.dataset = dataset
        self.num_replicas = get_world_size() if num_replicas is None else num_replicas
        self.rank = get_rank() if rank is None else rank
        self.shuffle = shuffle
        self.epoch = 0
        self.num_samples = math.ceil(len(dataset) / self.num_replicas)
        self.total_size = self.num_samples * self.num_replicas

    def __iter__(self) -> Iterator[int]:
        indices = list(range(len(self.dataset)))
        if self.shuffle:
            generator = torch.Generator()
            generator.manual_seed(self.epoch)
            indices = torch.randperm(len(self.dataset), generator=generator).tolist()
        filled = indices * math.ceil(self.total_size / max(1, len(indices)))
        start = self.num_samples * self.rank
        return iter(filled[start : start + self.num_samples])

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

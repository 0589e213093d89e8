"""The order of the training data as a function of the seed and the iteration.

Nothing is played back: the batch of iteration 80,000 costs one epoch's permutation. The order does
not depend on the number of ranks, workers or micro-batches, which only divide each batch.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Sampler

from detengine.data.randomness import mix_seed

Key = tuple[int, int]
"""(epoch, index): which image, and in which epoch's randomness."""


class BatchOrder:
    """Batches of `images_per_batch` indices, each of one group, for any iteration.

    An epoch is permuted by (seed, epoch) and split by group; each group's last batch is filled from
    the start of that group's own permutation; then the batches are permuted. So each image appears
    in every epoch, a few of them twice.
    """

    def __init__(
        self, group_of_image: Sequence[int] | Tensor, images_per_batch: int, seed: int
    ) -> None:
        """group_of_image: int[I], any numbers; images are batched with those of the same number."""
        self.groups = torch.as_tensor(group_of_image, dtype=torch.int64)
        if len(self.groups) == 0:
            raise ValueError("there are no images to put in order: the data sets are empty")
        if images_per_batch < 1:
            raise ValueError(f"a batch needs at least one image, not {images_per_batch}")
        self.images_per_batch = images_per_batch
        self.seed = seed
        _, sizes = torch.unique(self.groups, return_counts=True)
        self.batches_per_epoch = int(((sizes + images_per_batch - 1) // images_per_batch).sum())
        self._epoch = -1
        self._batches = torch.empty(0, dtype=torch.int64)

    def batch(self, iteration: int) -> tuple[int, list[int]]:
        """The epoch, counted from 0, and the indices of the images of an iteration."""
        epoch, position = divmod(iteration, self.batches_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._batches_of(epoch)
        return epoch, self._batches[position].tolist()

    def _batches_of(self, epoch: int) -> Tensor:
        """int64[batches_per_epoch, images_per_batch]"""
        generator = torch.Generator()
        generator.manual_seed(mix_seed(self.seed, epoch))
        permutation = torch.randperm(len(self.groups), generator=generator)
        group_at = self.groups[permutation]
        batches = torch.cat(
            [self._filled(permutation[group_at == group]) for group in torch.unique(self.groups)]
        )
        return batches[torch.randperm(len(batches), generator=generator)]

    def _filled(self, members: Tensor) -> Tensor:
        """One group's batches; int64[n] to int64[ceil(n / images_per_batch), images_per_batch]."""
        rows = -(-len(members) // self.images_per_batch)
        positions = torch.arange(rows * self.images_per_batch) % len(members)
        return members[positions].view(rows, self.images_per_batch)


class RankBatchSampler(Sampler[list[Key]]):
    """One rank's share of each global batch, in `accumulate` micro-batches.

    Yields lists of keys from iteration `start_iter` to `max_iter`; `len()` counts all micro-batches
    of the run from iteration 0. Together, all ranks' slices of an iteration are its global batch.
    """

    def __init__(
        self,
        order: BatchOrder,
        max_iter: int,
        start_iter: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ) -> None:
        if order.images_per_batch % (world_size * accumulate):
            raise ValueError(
                f"a batch of {order.images_per_batch} images cannot be divided among {world_size} "
                f"ranks with {accumulate} micro-batches each"
            )
        self.order = order
        self.max_iter = max_iter
        self.start_iter = start_iter
        self.rank = rank
        self.accumulate = accumulate
        self.images_per_micro_batch = order.images_per_batch // (world_size * accumulate)

    def __len__(self) -> int:
        return self.max_iter * self.accumulate

    def __iter__(self) -> Iterator[list[Key]]:
        size = self.images_per_micro_batch
        first = self.rank * self.accumulate * size
        for iteration in range(self.start_iter, self.max_iter):
            epoch, indices = self.order.batch(iteration)
            for start in range(first, first + self.accumulate * size, size):
                yield [(epoch, index) for index in indices[start : start + size]]

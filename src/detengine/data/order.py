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
"""(epoch, index): which image, and in which epoch's randomness.

Where an image is repeated in an epoch, its copies have the image's index plus 1, 2, ... times the
number of images, so that each draws its own randomness.
"""

_ONE = 2**24
"""Repeat factors are counted in such parts: whole numbers have the same sums on every machine."""
_NO_IMAGE = -1
"""Takes an index's place in the seed of what is drawn for a whole epoch."""


class BatchOrder:
    """Batches of `images_per_batch` indices, each of one group, for any iteration.

    An epoch is permuted by (seed, epoch) and split by group; each group's last batch is filled from
    the start of that group's own permutation; then the batches are permuted. So each image appears
    in every epoch, a few of them twice.

    With repeat factors each image appears as often as its factor says on average over the epochs,
    and in each of them that often rounded down or up, before the filling; see `Key` for the copies.
    All epochs have the same number of batches.
    """

    def __init__(
        self,
        group_of_image: Sequence[int] | Tensor,
        images_per_batch: int,
        seed: int,
        *,
        repeat_factors: Tensor | None = None,
    ) -> None:
        """group_of_image: int[I], any numbers; images are batched with those of the same number.

        repeat_factors: float[I], each at least 1; None: all are 1.
        """
        self.groups = torch.as_tensor(group_of_image, dtype=torch.int64)
        if len(self.groups) == 0:
            raise ValueError("there are no images to put in order: the data sets are empty")
        if images_per_batch < 1:
            raise ValueError(f"a batch needs at least one image, not {images_per_batch}")
        self.images_per_batch = images_per_batch
        self.seed = seed
        self._repeats = None if repeat_factors is None else self._in_parts(repeat_factors)
        self._batches_of_group = self._count_batches()
        self.batches_per_epoch = sum(self._batches_of_group.values())
        self._epoch = -1
        self._batches = torch.empty(0, dtype=torch.int64)

    def batch(self, iteration: int) -> tuple[int, list[int]]:
        """The epoch, counted from 0, and the indices of an iteration, as a key has them."""
        epoch, position = divmod(iteration, self.batches_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._batches_of(epoch)
        return epoch, self._batches[position].tolist()

    def _in_parts(self, repeat_factors: Tensor) -> Tensor:
        """int64[I]: the factors as multiples of 1 / _ONE."""
        if repeat_factors.shape != self.groups.shape:
            raise ValueError(
                f"each of the {len(self.groups)} images needs one repeat factor, but they are "
                f"{list(repeat_factors.shape)}"
            )
        impossible = ~((repeat_factors >= 1) & repeat_factors.isfinite())
        if impossible.any():
            raise ValueError(
                f"a repeat factor is a number of at least 1, but that of image "
                f"{int(impossible.nonzero()[0])} is {float(repeat_factors[impossible][0])}"
            )
        return (repeat_factors.double() * _ONE).round().long()

    def _count_batches(self) -> dict[int, int]:
        """By group: the most images that an epoch can have of it, in batches."""
        found = {}
        for group in torch.unique(self.groups).tolist():
            members = self.groups == group
            images = int(members.sum())
            if self._repeats is not None:
                images = -(-int(self._repeats[members].sum()) // _ONE)
            found[group] = -(-images // self.images_per_batch)
        return found

    def _batches_of(self, epoch: int) -> Tensor:
        """int64[batches_per_epoch, images_per_batch]"""
        generator = torch.Generator()
        generator.manual_seed(mix_seed(self.seed, epoch))
        indices = self._indices_of(epoch)
        permutation = indices[torch.randperm(len(indices), generator=generator)]
        group_at = self.groups[permutation % len(self.groups)]
        batches = torch.cat(
            [
                self._filled(permutation[group_at == group], count)
                for group, count in self._batches_of_group.items()
            ]
        )
        return batches[torch.randperm(len(batches), generator=generator)]

    def _indices_of(self, epoch: int) -> Tensor:
        """All images of an epoch and their copies, ascending by image.

        Systematic sampling: the images are laid out, each as long as its factor, by group and in an
        order of the epoch's own, and one comes as often as it covers a mark. The marks are 1 apart
        and begin at random.
        """
        images = torch.arange(len(self.groups))
        if self._repeats is None:
            return images
        generator = torch.Generator()
        generator.manual_seed(mix_seed(self.seed, epoch, _NO_IMAGE))
        offset = torch.randint(_ONE, (1,), generator=generator)
        order = torch.randperm(len(images), generator=generator)
        order = order[torch.argsort(self.groups[order], stable=True)]
        marks_before = torch.cat([offset, offset + self._repeats[order].cumsum(0)]) // _ONE
        counts = torch.empty_like(images)
        counts[order] = marks_before.diff()
        first = counts.cumsum(0) - counts
        copy = torch.arange(int(counts.sum())) - first.repeat_interleave(counts)
        return images.repeat_interleave(counts) + copy * len(images)

    def _filled(self, members: Tensor, count: int) -> Tensor:
        """One group's batches; int64[n] to int64[count, images_per_batch]."""
        positions = torch.arange(count * self.images_per_batch) % len(members)
        return members[positions].view(count, self.images_per_batch)


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

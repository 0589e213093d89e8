"""The dearest batches that a training can draw, so that memory is known before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DearBatch:
    """Indices of images that make a batch, and what makes it dear."""

    indices: list[int]
    why: str


def dearest_batches(
    sizes: Tensor, objects: Tensor, images_per_batch: int, *, by_shape: bool
) -> list[DearBatch]:
    """The batch with the largest padded area, and that with the most objects.

    sizes: int64[I, 2], (height, width) of each image as the model gets it; objects: int64[I].
    Once, where both are the same. by_shape: images that are wider than high and the others are
    never in one batch. Where there are fewer images than a batch has, some are in it twice, as in
    training.
    """
    upright = (sizes[:, 0] >= sizes[:, 1]) if by_shape else torch.ones(len(sizes)).bool()
    groups = [
        group for group in (upright.nonzero()[:, 0], (~upright).nonzero()[:, 0]) if len(group)
    ]
    # those with the most objects first
    groups = [group[objects[group].argsort(descending=True, stable=True)] for group in groups]
    areas = [_largest_of(sizes, group, images_per_batch) for group in groups]
    largest = max(areas, key=lambda batch: padded_area(sizes[batch]))
    crowded = [_filled(group.tolist(), images_per_batch) for group in groups]
    most = max(crowded, key=lambda batch: int(objects[batch].sum()))
    found = [DearBatch(largest, "the largest padded area"), DearBatch(most, "the most objects")]
    return found[: 1 if sorted(largest) == sorted(most) else 2]


def _largest_of(sizes: Tensor, group: Tensor, images_per_batch: int) -> list[int]:
    """The highest and the widest image make the area, and the first of the group fill the batch."""
    own = sizes[group]
    if images_per_batch == 1:
        needed = [int(own.prod(dim=1).argmax())]
    else:
        needed = list(dict.fromkeys([int(own[:, 0].argmax()), int(own[:, 1].argmax())]))
    places = needed + [place for place in range(len(group)) if place not in needed]
    return _filled(group[places].tolist(), images_per_batch)


def padded_area(sizes: Tensor) -> int:
    """Pixels of one image of the batch, padded to the largest height and width.

    sizes: int64[n, 2], (height, width) of each image.
    """
    return int(sizes[:, 0].max() * sizes[:, 1].max())


def _filled(indices: Sequence[int], number: int) -> list[int]:
    return [indices[position % len(indices)] for position in range(number)]

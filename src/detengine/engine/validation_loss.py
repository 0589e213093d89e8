"""The training losses of a model on images that it is not trained on, without a trace in it."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detengine.data.randomness import seeded
from detengine.distributed.comm import all_gather
from detengine.engine.inference import EvaluationLoader, interruptible
from detengine.engine.model_mode import loss_mode
from detengine.engine.nonfinite import raise_if_no_losses
from detengine.engine.prefetch import batches_on
from detengine.structures.flat import copy_from_flat, flatten, group_by_kind


class _BatchLosses(NamedTuple):
    """values: float[L] on the device, in the order of the names."""

    names: tuple[str, ...]
    values: Tensor
    num_images: int


def validation_loss(
    model: nn.Module,
    data_loader: EvaluationLoader,
    device: torch.device,
    *,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, float]:
    """Each of the model's losses over a test set, and `loss`, their sum, first; all ranks.

    data_loader: the batches of this rank, with targets. Each image counts alike, also one without
    objects: a batch's losses count as often as it has images, a loss that it lacks as 0. The sum
    over batches and ranks is exact, so that neither order nor number of ranks changes a bit of it,
    as long as the batches are the same: a loss is the model's mean over a batch, over what it
    samples there, and over images padded to one size. A loss that is not finite is reported so.

    A batch's losses are a function of the weights and the batch alone: layers are as in evaluation
    (`loss_mode`), what the model draws is seeded by the images' ids, and what it writes to its
    buffers is put back. Modes, buffers and generators are then as before, gradients are not
    computed, and nothing is read from the device before the end. In float32, as scores are.
    should_stop: as in `inference`. Raises ValueError, naming the images, for what are no losses;
    StopRequestedError.
    """
    measured = []
    with loss_mode(model):
        batches = batches_on(interruptible(data_loader, should_stop), device)
        for images, targets, image_ids in batches:
            with torch.no_grad(), buffers_kept(model), seeded(*image_ids, device=device):
                losses = model(images, targets)
            raise_if_no_losses(losses, image_ids)
            measured.append(_of_batch(losses, len(image_ids)))
    of_ranks = all_gather(_read(measured))
    return _mean_over_images([batch for batches in of_ranks for batch in batches])


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Each of the model's buffers is the tensor it was, bit for bit, after the block.

    Also where the block has put another one in its place, added one or taken one away.
    """
    before = [(module, dict(module._buffers)) for module in model.modules()]
    groups = group_by_kind(
        each
        for _, buffers in before
        for each in buffers.values()
        if each is not None and _can_be_written(each)
    )
    kept = [flatten(group) for group in groups]
    try:
        yield
    finally:
        for module, buffers in before:
            module._buffers.clear()
            module._buffers.update(buffers)
        with torch.inference_mode():  # a buffer that was made while scoring cannot change outside
            for group, flat in zip(groups, kept, strict=True):
                copy_from_flat(group, flat)


def _can_be_written(buffer: Tensor) -> bool:
    """False of one that `expand` has made: torch writes into none whose elements share memory."""
    return all(
        stride or size < 2 for size, stride in zip(buffer.shape, buffer.stride(), strict=True)
    )


def _of_batch(losses: Mapping[str, Tensor], num_images: int) -> _BatchLosses:
    values = torch.stack([loss.detach().reshape(()).float() for loss in losses.values()])
    return _BatchLosses(tuple(losses), values, num_images)


_Read = tuple[dict[str, float], int]
"""A batch's losses, and its images."""


def _read(measured: Sequence[_BatchLosses]) -> list[_Read]:
    """All of a rank's batches, in one transfer where all have the same number of losses."""
    read: list[_Read] = []
    for count in dict.fromkeys(len(batch.names) for batch in measured):
        alike = [batch for batch in measured if len(batch.names) == count]
        rows = torch.stack([batch.values for batch in alike]).tolist()
        for (names, _, num_images), row in zip(alike, rows, strict=True):
            read.append((dict(zip(names, row, strict=True)), num_images))
    return read


def _mean_over_images(batches: Sequence[_Read]) -> dict[str, float]:
    total_images = sum(num_images for _, num_images in batches)
    if not total_images:
        raise ValueError("there are no images to measure losses on: the loader gave no batch")
    means = {
        name: _exact_sum([losses.get(name, 0.0) * images for losses, images in batches])
        / total_images
        for name in dict.fromkeys(name for losses, _ in batches for name in losses)
    }
    return {"loss": _exact_sum(list(means.values())), **means}


def _exact_sum(values: Sequence[float]) -> float:
    """The sum in any order; infinities of both signs give nan, where fsum would raise."""
    return math.fsum(values) if all(map(math.isfinite, values)) else sum(values)

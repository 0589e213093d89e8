"""Batch norm's running statistics, which change in the forward, before a step is judged."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from detengine.structures.flat import copy_from_flat, flatten, group_by_kind


class RunningStatistics:
    """What a model's norms have counted and averaged, to be put back where a step was skipped.

    Those of every norm of torch's that tracks them, `num_batches_tracked` included. A model without
    such norms pays nothing. Make it after the model has gone to its device, which nothing is read
    from.
    """

    def __init__(self, model: nn.Module) -> None:
        norms = [module for module in model.modules() if isinstance(module, _NormBase)]
        self._groups = group_by_kind(
            buffer for norm in norms for buffer in norm.buffers(recurse=False)
        )
        self._kept: list[Tensor] = []

    def keep(self) -> None:
        """Remember them as they are now."""
        if self._groups:
            with torch.no_grad():
                self._kept = [flatten(buffers) for buffers in self._groups]

    def put_back(self, skipped: Tensor) -> None:
        """Make them what they were at `keep`, where skipped, a tensor of one number, is not 0."""
        if self._groups:
            self._put_back(skipped)

    @torch.no_grad()
    def _put_back(self, skipped: Tensor) -> None:
        for buffers, kept in zip(self._groups, self._kept, strict=True):
            was_skipped = skipped.to(kept.device) > 0
            copy_from_flat(buffers, torch.where(was_skipped, kept, flatten(buffers)))

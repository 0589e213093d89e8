"""Batch norm's running statistics, which change in the forward, before a step is judged."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class RunningStatistics:
    """What a model's norms have counted and averaged, to be put back where a step was skipped.

    Those of every norm of torch's that tracks them, `num_batches_tracked` included. A model without
    such norms pays nothing. Make it after the model has gone to its device, which nothing is read
    from.
    """

    def __init__(self, model: nn.Module) -> None:
        of_kind: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for module in model.modules():
            for buffer in module.buffers(recurse=False) if isinstance(module, _NormBase) else ():
                of_kind.setdefault((buffer.device, buffer.dtype), []).append(buffer)
        self._groups = list(of_kind.values())
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def keep(self) -> None:
        """Remember them as they are now."""
        self._kept = [_flat(buffers) for buffers in self._groups]

    @torch.no_grad()
    def put_back(self, skipped: Tensor) -> None:
        """Make them what they were at `keep`, where skipped, a tensor of one number, is not 0."""
        for buffers, kept in zip(self._groups, self._kept, strict=True):
            flat = torch.where(skipped.to(kept.device) > 0, kept, _flat(buffers))
            parts = torch.split(flat, [buffer.numel() for buffer in buffers])
            shaped = [part.view_as(each) for part, each in zip(parts, buffers, strict=True)]
            torch._foreach_copy_(buffers, shaped)


def _flat(buffers: list[Tensor]) -> Tensor:
    return torch.cat([buffer.reshape(-1) for buffer in buffers])

"""Batch norm on several ranks: statistics over all of them, or each its own until they are shared.

Running statistics are read in evaluation only: ranks that each keep their own train alike, but
must hold the same before they score.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from detengine.distributed.comm import is_distributed
from detengine.structures.flat import copy_from_flat, flatten, group_by_kind


class CPUSyncBatchNorm(_BatchNorm):
    """Batch norm whose mean and variance are over the images of all ranks, for CPUs.

    torch's SyncBatchNorm refuses these, and DistributedDataParallel any kind of it on them. The
    names and the running statistics (of the unbiased variance) are the same. In training mode every
    rank calls it, in the same order, forward and backward; a rank's input may be of any size, or
    empty.
    """

    def forward(self, input: Tensor) -> Tensor:
        """input: floating[N, C, ...]."""
        if not self.training or not is_distributed():
            return super().forward(input)
        dims = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        values = input.float()
        counted = input.new_tensor([input.numel() // input.shape[1]], dtype=torch.float32)
        total = _sum_over_ranks(torch.cat([values.sum(dims), counted]))
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = values - mean.view(shape)
        variance = _sum_over_ranks(centred.square().sum(dims)) / count
        self._follow(mean.detach(), variance.detach(), count)
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        output = centred * scale.view(shape)
        if self.bias is not None:
            output = output + self.bias.view(shape)
        return output.to(input.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""

    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Take a batch into the running statistics."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None  # made with the other two
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / (count - 1).clamp(min=1)), momentum)


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> None:
    """Put a synchronized one, torch's on GPUs, in the place of each batch norm inside the model.

    It has the same parameters and buffers, the tensors themselves, under the same names. Frozen
    batch norm has no statistics to take, and stays. Raises ValueError for a layer that is batch
    norm and more.
    """
    kind = CPUSyncBatchNorm if device.type == "cpu" else nn.SyncBatchNorm
    for name, parent in list(model.named_modules()):
        for child_name, child in parent.named_children():
            if not isinstance(child, _BatchNorm) or isinstance(child, kind):
                continue
            if type(child).forward is not _BatchNorm.forward:
                raise ValueError(
                    f"DISTRIBUTED.SYNC_BATCHNORM is True, but the layer {name}.{child_name} is a "
                    f"{type(child).__module__}.{type(child).__name__}, which does more than batch "
                    "norm, and cannot be replaced. Set it to False, or build the model with "
                    "torch's own batch norm, or with group norm."
                )
            setattr(parent, child_name, _replaced(child, kind))


def _replaced(norm: _BatchNorm, kind: type[_BatchNorm]) -> _BatchNorm:
    made = kind(norm.num_features, norm.eps, norm.momentum, device="meta")
    made.affine, made.track_running_stats = norm.affine, norm.track_running_stats
    made.weight, made.bias = norm.weight, norm.bias
    made.running_mean, made.running_var = norm.running_mean, norm.running_var
    made.num_batches_tracked = norm.num_batches_tracked
    return made.train(norm.training)


@torch.no_grad()
def share_buffers(model: nn.Module) -> None:
    """Give all ranks the buffers of rank 0, whose are saved too; called by all, before scoring."""
    if not is_distributed():
        return
    for buffers in group_by_kind(model.buffers()):
        flat = flatten(buffers)
        dist.broadcast(flat, 0)
        copy_from_flat(buffers, flat)


def _sum_over_ranks(values: Tensor) -> Tensor:
    """The sum over all ranks, with its gradient; float[N], all ranks, forward and backward."""
    return _SumOverRanks.apply(values)  # type: ignore[no-any-return]


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Every rank's loss depends on every rank's values."""
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total

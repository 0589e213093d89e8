"""One model trained by all ranks together: what DistributedDataParallel is told, and why."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torchvision.ops import FrozenBatchNorm2d

from detengine.distributed.batch_norm import synchronize_batch_norm
from detengine.distributed.comm import get_rank, is_distributed


def distribute(
    model: nn.Module,
    device: torch.device,
    *,
    foreign: bool,
    static_graph: bool = False,
    sync_batchnorm: bool = False,
    accumulate: int = 1,
) -> nn.Module:
    """The model as all ranks train it together; in a single process the model itself.

    All ranks call it, after the optimizer, the averages and the checkpointer were made: the model's
    parameters and buffers stay the tensors that these hold.
    foreign: a model of the user's own, which may leave parameters unused in a step and keep state
    in its buffers; ours use every trained parameter in every step, also for images without objects.
    static_graph: a foreign model's promise that every step uses the same parameters and gives the
    same losses; a step with other losses raises ValueError, on its rank and before its backward.
    sync_batchnorm: see `synchronize_batch_norm`. accumulate: micro-batches to a step.
    Raises ValueError for a static graph with several micro-batches, and as
    `synchronize_batch_norm` does.
    """
    if not is_distributed():
        return model
    if static_graph and accumulate > 1:
        # pytorch issue 143580: no_sync in the first step is an internal error, and if it were not,
        # the gradients would stay apart from the second step on.
        raise ValueError(
            f"DISTRIBUTED.STATIC_GRAPH is True and SOLVER.ACCUMULATE is {accumulate}: torch "
            "cannot gather the gradients of several micro-batches in a static graph. Set "
            "STATIC_GRAPH to False, or ACCUMULATE to 1."
        )
    if sync_batchnorm:
        synchronize_batch_norm(model, device)
    looks_for_unused = foreign and not static_graph
    if looks_for_unused:
        _hear_torch_about_unused_parameters()
    parallel = DistributedDataParallel(
        model,
        device_ids=None if device.type == "cpu" else [device],
        gradient_as_bucket_view=True,
        find_unused_parameters=looks_for_unused,
        static_graph=static_graph,
    )
    # Set here, because the argument is deprecated in torch 2.13, and its successor new there.
    parallel.broadcast_buffers = foreign and _keeps_state(model)
    if static_graph:
        parallel.register_forward_hook(_SameLosses())
    return parallel


def _keeps_state(model: nn.Module) -> bool:
    """Whether a forward may depend on what an earlier one left in a buffer.

    Batch norm's running statistics are not read in training, and frozen ones do not change.
    """
    return any(
        not isinstance(module, _BatchNorm | FrozenBatchNorm2d)
        for module in model.modules()
        for _ in module.buffers(recurse=False)
    )


class _SameLosses:
    """A forward hook that refuses losses of other names than those of the first step."""

    def __init__(self) -> None:
        self._names: list[str] | None = None
        self._steps = 0

    def __call__(self, module: nn.Module, inputs: Any, losses: Mapping[str, Tensor]) -> None:
        if not module.training:
            return
        self._steps += 1
        self._names = self._names or sorted(losses)
        if sorted(losses) != self._names:
            raise ValueError(
                f"DISTRIBUTED.STATIC_GRAPH is True, but in step {self._steps} of this start the "
                f"model returned the losses {', '.join(sorted(losses)) or 'none'} on rank "
                f"{get_rank()}, and in the first one {', '.join(self._names)}. Set STATIC_GRAPH "
                "to False, or let the model return every loss in every step (0 where there is "
                "nothing to learn from)."
            )


def _hear_torch_about_unused_parameters() -> None:
    """Have torch say, unheard, that no parameter was unused, which it says once in each process.

    It would reach the console from every rank of every model that uses all its parameters. torch
    prints it from C++, where nothing filters it; inside a backward, it is a Python warning.
    """
    tiny = DistributedDataParallel(nn.Linear(1, 1), find_unused_parameters=True)

    def use_all_parameters(gradient: Tensor) -> None:
        with torch.enable_grad():
            tiny(torch.zeros(1, 1))

    zero = torch.zeros((), requires_grad=True)
    zero.register_hook(use_all_parameters)  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
        zero.backward()  # type: ignore[no-untyped-call]

"""One step of a run again, in one process and with every output looked at."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from detengine.engine.model_mode import model_mode
from detengine.engine.nonfinite import nonfinite_on_any_rank
from detengine.engine.nonfinite_record import NonFiniteRecord, RankShare
from detengine.engine.running_statistics import RunningStatistics
from detengine.engine.trainer import accumulate_gradients, seed_iteration
from detengine.monitor.scalars import Scalars
from detengine.solver.precision import Precision
from detengine.structures.batch import Batch

RankWindows = Sequence[Sequence[Batch]]
"""The micro-batches of one step, rank by rank."""

_FEW = 10


@dataclass(frozen=True)
class RankReplay:
    """One rank's part, repeated.

    culprit: the first module whose output was not finite, if any. gradients_are_finite: its own.
    """

    share: RankShare
    culprit: str | None
    gradients_are_finite: bool


@dataclass(frozen=True)
class StepReplay:
    """bad_parameters: those whose gradients are not finite, of so many that have gradients."""

    ranks: list[RankReplay]
    bad_parameters: list[str]
    num_parameters: int
    gradient_norm: float

    @property
    def is_finite(self) -> bool:
        losses_are = all(each.share.loss_is_finite for each in self.ranks)
        return losses_are and math.isfinite(self.gradient_norm)


def repeat_step(
    model: nn.Module,
    windows: RankWindows,
    device: torch.device,
    *,
    dtype: str,
    seed: int,
    iteration: int,
) -> StepReplay:
    """Forward and backward of one step, all ranks' parts in turn; no weight is changed.

    With float16 the loss is not scaled, so that an infinite gradient is the step's and not the
    scale's. dtype: as `Precision`'s.
    """
    precision = Precision(dtype, initial_scale=1.0)
    ranks: list[RankReplay] = []
    gradients: dict[str, Tensor] = {}
    with model_mode(model, training=True), first_nonfinite_outputs(model) as found:
        for rank, window in enumerate(windows):
            model.zero_grad()
            found.clear()
            seed_iteration(seed, iteration, device, rank=rank)
            losses = accumulate_gradients(model, window, device, precision)
            own = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            for name, gradient in own.items():
                gradients[name] = gradients.get(name, 0) + gradient / len(windows)
            share = RankShare(
                [list(batch.image_ids) for batch in window],
                losses.numbers(),
            )
            ranks.append(RankReplay(share, next(iter(found), None), not _not_finite(own)))
    norm = get_total_norm(gradients.values()).item()
    return StepReplay(ranks, _not_finite(gradients), len(gradients), norm)


def _not_finite(gradients: Mapping[str, Tensor]) -> list[str]:
    return [name for name, gradient in gradients.items() if not gradient.isfinite().all()]


def train_quietly(
    model: nn.Module,
    steps: Iterable[RankWindows],
    optimizer: Optimizer,
    scheduler: LRScheduler,
    device: torch.device,
    *,
    precision: Precision,
    seed: int,
    start_iter: int,
    clip_norm: float | None = None,
) -> None:
    """Train over the steps as `do_train` would have, all ranks' parts in turn.

    With one rank's parts the weights are the run's own; with several the gradients are summed in
    another order, so that they are the same but for rounding.
    """
    statistics = RunningStatistics(model)
    with model_mode(model, training=True):
        for iteration, windows in enumerate(steps, start_iter + 1):
            optimizer.zero_grad()
            statistics.keep()
            losses = list(_gradients_of(model, windows, device, precision, seed, iteration))
            total = torch.stack([each["loss"] for each in losses]).sum()
            found_inf = precision.step(optimizer, clip_norm, nonfinite_on_any_rank(total, model))
            statistics.put_back(found_inf)
            scheduler.step()


def _gradients_of(
    model: nn.Module,
    windows: RankWindows,
    device: torch.device,
    precision: Precision,
    seed: int,
    iteration: int,
) -> Iterator[Scalars]:
    """Each rank's losses; at the end the gradients are the mean over the ranks."""
    for rank, window in enumerate(windows):
        seed_iteration(seed, iteration, device, rank=rank)
        yield accumulate_gradients(model, window, device, precision)
    if len(windows) > 1:
        gradients = [each.grad for each in model.parameters() if each.grad is not None]
        torch._foreach_div_(gradients, len(windows))


@contextmanager
def first_nonfinite_outputs(model: nn.Module) -> Iterator[list[str]]:
    """A list that is filled, in the order of the forward, with the modules of such outputs.

    A module inside another comes before it. Each output is read from the device.
    """
    found: list[str] = []
    hooks = [
        module.register_forward_hook(_noting(name, found)) for name, module in model.named_modules()
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _noting(name: str, found: list[str]) -> Callable[[nn.Module, Any, Any], None]:
    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if not all(each.isfinite().all() for each in _tensors_in(output)):
            kind = type(module).__name__
            found.append(f"{name} ({kind})" if name else f"the model itself ({kind})")

    return note


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors_in(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors_in(each)


def describe_replay(
    record: NonFiniteRecord, replay: StepReplay, name_of_image: Callable[[int], str]
) -> str:
    """What the step showed then and shows now, in lines. name_of_image: by image id."""
    lines = []
    for rank, (then, now) in enumerate(zip(record.ranks, replay.ranks, strict=True)):
        names = [name_of_image(each) for batch in then.image_ids for each in batch]
        lines.append(f"rank {rank}: {', '.join(names)}")
        width = max(map(len, [*then.losses, *now.share.losses]))
        for name in dict.fromkeys([*then.losses, *now.share.losses]):
            was, is_now = (_in_words(each.losses.get(name)) for each in (then, now.share))
            lines.append(f"  {name:<{width}}  then {was:<10}  now {is_now}")
        if now.culprit is not None:
            lines.append(f"  the first output that is not finite: {now.culprit}")
        elif not now.gradients_are_finite:
            lines.append("  every output is finite, but a gradient is not")
        else:
            lines.append("  every output and every gradient is finite")
    lines.append(_describe_gradients(replay))
    if replay.is_finite:
        lines.append("Repeated here, the step is finite: every loss and every gradient.")
    return "\n".join(lines)


def _describe_gradients(replay: StepReplay) -> str:
    text = f"gradients: norm {replay.gradient_norm:.6g}"
    if not replay.bad_parameters:
        return f"{text}; all {replay.num_parameters} are finite"
    named = ", ".join(replay.bad_parameters[:_FEW])
    more = ", ..." if len(replay.bad_parameters) > _FEW else ""
    count = f"{len(replay.bad_parameters)} of {replay.num_parameters} parameters"
    return f"{text}; not finite in {count}: {named}{more}"


def _in_words(loss: float | None) -> str:
    return "not there" if loss is None else f"{loss:.6g}"

"""The loop that trains a detector."""

import datetime
import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import count, islice
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from detengine.checkpoint.checkpointer import Checkpointer
from detengine.checkpoint.history import FINAL, checkpoint_name
from detengine.data.randomness import default_generator_of
from detengine.distributed.comm import get_rank, reduce_dict
from detengine.engine.model_mode import model_mode
from detengine.engine.nonfinite import (
    NonFiniteGuard,
    NonFinitePolicy,
    OnNonFinite,
    nonfinite_on_any_rank,
    total_loss,
)
from detengine.engine.periodic_scoring import BestMetric, PeriodicScoring
from detengine.engine.prefetch import batches_on
from detengine.engine.stopping import StopAgreement
from detengine.monitor.data_wait import DataWait
from detengine.monitor.metric_logger import MetricLogger
from detengine.monitor.scalars import Scalars
from detengine.monitor.sinks import Sink
from detengine.solver.ema import ModelEMA
from detengine.solver.optimizers import start_momentum_at_zero
from detengine.solver.precision import Precision, can_skip, clear_gradients
from detengine.structures.batch import Batch

logger = logging.getLogger("detengine.trainer")


class BatchLoader(Protocol):
    """What `do_train` reads: (images, targets, image_ids) from `arguments["iteration"]` on.

    `len()` counts the batches of the whole training, those before a resumed start included.
    """

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[tuple[Any, Any, Any]]: ...


class StepResult(NamedTuple):
    """losses: on the device, `loss` (their sum) first. found_inf: 1 if it was skipped."""

    losses: Scalars
    found_inf: Tensor


def do_train(
    model: nn.Module,
    data_loader: BatchLoader,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    checkpointer: Checkpointer,
    device: torch.device,
    checkpoint_period: int,
    arguments: dict[str, Any],
    *,
    precision: Precision | None = None,
    ema: ModelEMA | None = None,
    accumulate: int = 1,
    clip_norm: float | None = None,
    seed: int | None = None,
    log_period: int = 20,
    sinks: Sequence[Sink] = (),
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    eval_period: int = 0,
    best_metric: BestMetric | str | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_nonfinite: OnNonFinite | NonFinitePolicy = "stop",
) -> None:
    """Train the model until the loader ends; called by all ranks.

    arguments: `arguments["iteration"]` finished iterations, kept up to date; saved in checkpoints.
    checkpoint_period: iterations from one `model_0002500` to the next; `model_final` ends the run.
    accumulate: batches to one optimizer step. clip_norm: the largest total norm of the gradients.
    seed: makes iteration i's randomness a function of (seed, i, rank); None leaves it alone.
    evaluate: flat metrics, every eval_period and at the end. best_metric: see PeriodicScoring.
    should_stop: asked after each iteration; True on any rank saves and returns, on all of them.
    Raises NonFiniteError, at the latest one log period after a step that was not finite, with the
    weights before it; OSError, at the next step, if a checkpoint was not written in the background.
    """
    logger.info("Start training")
    make_skipping_safe(optimizer)
    precision = precision or Precision()
    guard = NonFiniteGuard(on_nonfinite, model, precision, folder=checkpointer.save_dir, seed=seed)
    stopping = StopAgreement(should_stop, checkpointer.problem)
    meters, data_wait = restore_meters(arguments), DataWait()
    start_iter, max_iter = arguments["iteration"], number_of_iterations(data_loader, accumulate)
    scoring = PeriodicScoring(evaluate, eval_period, sinks, best_metric, checkpointer)
    start_time = time.perf_counter()
    if not scoring.catch_up(arguments, max_iter):
        return
    end = time.perf_counter()
    with model_mode(model, training=True):
        steps = windows(data_loader, accumulate, device, start_iter, max_iter=max_iter)
        for iteration, window in steps:
            data_seconds = time.perf_counter() - end
            seed_iteration(seed, iteration, device)
            lr = optimizer.param_groups[0]["lr"]
            step = train_step(
                model, window, optimizer, scheduler, device, precision,
                ema=ema, clip_norm=clip_norm, guard=guard,
            )  # fmt: skip
            arguments["iteration"] = iteration
            guard.record(iteration, lr, window, step.losses)
            meters.update(step.losses, time=time.perf_counter() - end, data=data_seconds)
            stop, last = stopping.after_step(), iteration == max_iter
            if stop or last or iteration % log_period == 0:
                guard.check()
                stop = stopping.settle(meters.reduce_across_ranks(stopping.status()))
                log_progress(meters, iteration, max_iter, lr, device, sinks, data_wait)
            if stop or iteration % checkpoint_period == 0:
                guard.check()
                save_checkpoint(checkpointer, checkpoint_name(iteration), arguments, meters)
            if last:
                save_checkpoint(checkpointer, FINAL, arguments, meters)
            if scoring.is_due(iteration, max_iter) and not stop:
                guard.check()
                stop = not scoring.run(arguments, max_iter)
                if stop and not last:
                    save_checkpoint(checkpointer, scoring.stop_name(arguments), arguments, meters)
            if stop:
                break
            end = time.perf_counter()
    checkpointer.wait()
    seconds = time.perf_counter() - start_time - scoring.seconds
    log_total_time(seconds, arguments["iteration"] - start_iter)


def train_step(
    model: nn.Module,
    batches: Sequence[Batch],
    optimizer: Optimizer,
    scheduler: LRScheduler,
    device: torch.device,
    precision: Precision,
    *,
    ema: ModelEMA | None = None,
    clip_norm: float | None = None,
    guard: NonFiniteGuard | None = None,
) -> StepResult:
    """Forward, backward, optimizer and learning-rate step over one window of micro-batches.

    The gradient is the mean over the micro-batches: 2 batches of 2 count as one batch of 4 wherever
    the loss is a mean over images. All ranks of a parallel model call it. Nothing is read back from
    the device. guard: also puts back, in a step that is skipped, what the forward has changed.
    Raises ValueError, naming the images, where the model returns no losses to train on.
    """
    clear_gradients(optimizer)
    ended = None if guard is None else guard.before_step()
    losses = accumulate_gradients(model, batches, device, precision)
    must_skip = ended
    if precision.scales_loss or isinstance(model, DistributedDataParallel):
        must_skip = nonfinite_on_any_rank(losses.stacked, model, ended)
    found_inf = precision.step(optimizer, clip_norm, must_skip, losses=losses.stacked)
    if guard is not None:
        guard.after_step(must_skip, found_inf)
    scheduler.step()
    if ema is not None:
        ema.update(found_inf)
    return StepResult(losses, found_inf)


def accumulate_gradients(
    model: nn.Module, batches: Sequence[Batch], device: torch.device, precision: Precision
) -> Scalars:
    """Forward and backward over one window. Returns the mean of each loss over the micro-batches.

    Where a loss is missing in some of them, it counts as 0 there, as it does in their sum.
    """
    sums: Scalars | None = None
    for number, batch in enumerate(batches, start=1):
        images, targets, image_ids = batch.to(device)
        with gradients_synchronized(model, when=number == len(batches)):
            with precision.autocast(device):
                losses = model(images, targets)
            losses = {"loss": total_loss(losses, image_ids), **losses}
            if len(batches) > 1:
                losses = {name: loss / len(batches) for name, loss in losses.items()}
            precision.backward(losses["loss"])
        own = Scalars.of(losses)
        sums = own if sums is None else sums + own
    if sums is None:
        raise ValueError("a step over no batch at all was asked for; at least one is needed")
    return sums


def reduce_loss_dict(loss_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean of each loss over all ranks, meaningful on rank 0; one collective, on all ranks.

    For loops of one's own; `do_train` reduces only what it prints, at its log lines.
    """
    with torch.no_grad():
        return reduce_dict(loss_dict, average=True)


def make_skipping_safe(optimizer: Optimizer) -> None:
    """See to it that even the first step may be skipped; say so if the host has to wait for it."""
    start_momentum_at_zero(optimizer)
    if not can_skip(optimizer):
        logger.warning(
            "%s is not fused, so the host must wait in every step to learn whether it is finite; "
            "with fused=True, on a CPU or on CUDA, it need not",
            type(optimizer).__name__,
        )


def number_of_iterations(data_loader: BatchLoader, accumulate: int) -> int:
    """Optimizer steps in the whole training. Raises ValueError if the last window were partial."""
    batches = len(data_loader)
    if accumulate < 1 or batches % accumulate:
        raise ValueError(
            f"accumulate is {accumulate}, but the loader has {batches} batches, which is not a "
            "multiple of it: the last step would be smaller than the others. Choose a divisor, or "
            "a loader of a fitting length."
        )
    return batches // accumulate


def windows(
    data_loader: BatchLoader,
    accumulate: int,
    device: torch.device,
    start_iter: int = 0,
    *,
    max_iter: int = 0,
) -> Iterator[tuple[int, list[Batch]]]:
    """Each iteration after start_iter, and the batches of its optimizer step, on the device.

    Raises RuntimeError where the loader ends before max_iter.
    """
    batches = batches_on(data_loader, device)
    for iteration in count(start_iter + 1):
        window = list(islice(batches, accumulate))
        if len(window) < accumulate and iteration <= max_iter:
            given = (iteration - start_iter - 1) * accumulate + len(window)
            raise RuntimeError(
                f"the data loader ended after {given} batches, in iteration {iteration} of "
                f"{max_iter}. Its len() must count what it gives, together with what was given "
                "before a resumed start."
            )
        if not window:
            return
        yield iteration, window


def seed_iteration(
    seed: int | None, iteration: int, device: torch.device, *, rank: int | None = None
) -> None:
    """Make the randomness of one iteration a function of (seed, iteration, rank).

    rank: whose randomness; None is this process's own.
    Only the default generator of the training's device is set: it costs a microsecond, where
    `torch.manual_seed` visits every device.
    """
    if seed is None:
        return
    mixed, of_rank = seed, get_rank() if rank is None else rank
    for value in (iteration, of_rank):  # two steps of Knuth's 64-bit linear congruence
        mixed = (mixed * 6364136223846793005 + value + 1442695040888963407) % 2**63
    default_generator_of(device).manual_seed(mixed)


def gradients_synchronized(model: nn.Module, *, when: bool) -> AbstractContextManager[Any]:
    """Lets DistributedDataParallel average the gradients in a window's last micro-batch only."""
    if isinstance(model, DistributedDataParallel) and not when:
        return model.no_sync()
    return nullcontext()


def restore_meters(arguments: Mapping[str, Any]) -> MetricLogger:
    """The meters of a resumed run, or new ones."""
    meters = MetricLogger(delimiter="  ")
    if "meters" in arguments:
        meters.load_state_dict(arguments["meters"])
    return meters


def save_checkpoint(
    checkpointer: Checkpointer, name: str, arguments: dict[str, Any], meters: MetricLogger
) -> None:
    """Save the run as it is, its meters included; called by all ranks."""
    meters.reduce_across_ranks()
    arguments["meters"] = meters.state_dict()
    checkpointer.save(name, **arguments)


def log_progress(
    meters: MetricLogger,
    iteration: int,
    max_iter: int,
    lr: float,
    device: torch.device,
    sinks: Sequence[Sink],
    data_wait: DataWait,
) -> None:
    """The training line, its numbers to the sinks, and a word where the loader is too slow."""
    memory = max_memory_mb(device)
    eta_seconds = meters.time.global_avg * (max_iter - iteration)
    eta = str(datetime.timedelta(seconds=int(eta_seconds)))
    parts = [
        f"eta: {eta}",
        f"iter: {iteration}",
        str(meters),
        f"lr: {lr:.6f}",
        f"max mem: {memory:.0f}",
    ]
    logger.info(meters.delimiter.join(parts), extra={"is_progress": True})
    metrics = {f"train/{name}": meter.avg for name, meter in meters.meters.items()}
    for sink in sinks:
        sink.write(iteration, metrics | {"train/lr": lr, "train/max_mem": memory})
    data_wait.judge(meters)


def max_memory_mb(device: torch.device) -> float:
    """The peak of the memory in use, in MiB: the accelerator's, or on a CPU the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def log_total_time(seconds: float, iterations: int) -> None:
    """The closing line: what this run took, and each of the iterations that it did itself."""
    total = str(datetime.timedelta(seconds=round(seconds)))
    logger.info("Total training time: %s (%.4f s / it)", total, seconds / max(iterations, 1))

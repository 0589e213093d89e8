"""Learning-rate schedules: closed forms of the number of finished iterations."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True)
class Warmup:
    """The share of the learning rate that is in force at the beginning: `factor` at first.

    "linear" raises it to the whole over `iters` iterations, "constant" keeps it for as long.
    """

    factor: float
    iters: int
    method: str

    def __post_init__(self) -> None:
        if self.method not in ("constant", "linear"):
            raise ValueError(
                f"warmup_method is {self.method!r}, but only 'constant' and 'linear' are known "
                "(SOLVER.WARMUP_METHOD)"
            )

    def share(self, iteration: int) -> float:
        """After so many finished iterations."""
        if iteration >= self.iters:
            return 1.0
        if self.method == "constant":
            return self.factor
        progress = iteration / self.iters
        return self.factor * (1 - progress) + progress


class ClosedFormLR(LRScheduler):
    """A schedule whose state is the number of finished iterations, `last_epoch`, and nothing else.

    All else is configuration, so that a run that is resumed with another one follows that.
    """

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on after `state_dict["last_epoch"]` iterations, and give the optimizer that rate.

        Further entries, as in the predecessor's checkpoints, are left alone.
        """
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = self.last_epoch + 1
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr


class WarmupMultiStepLR(ClosedFormLR):
    """Warm-up, then `gamma` times less from each milestone on (the predecessor's schedule).

    milestones: numbers of finished iterations. Raises ValueError if they do not ascend, and for a
    warmup_method other than "linear" and "constant".
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Sequence[int],
        gamma: float = 0.1,
        warmup_factor: float = 1 / 3,
        warmup_iters: int = 500,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ) -> None:
        if list(milestones) != sorted(milestones):
            raise ValueError(
                f"milestones are {tuple(milestones)}, but must ascend: they are the iterations at "
                "which the learning rate falls (SOLVER.STEPS)"
            )
        self.milestones = tuple(milestones)
        self.gamma = gamma
        self.warmup = Warmup(warmup_factor, warmup_iters, warmup_method)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        warmup = self.warmup.share(self.last_epoch)
        decay = self.gamma ** bisect_right(self.milestones, self.last_epoch)
        return [base_lr * warmup * decay for base_lr in self.base_lrs]


class WarmupCosineLR(ClosedFormLR):
    """Half a cosine from the whole rate to `min_factor` of it after `max_iters`, times a warm-up.

    The warm-up lies over the cosine's beginning, as in detectron2.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_iters: int,
        min_factor: float = 0.0,
        warmup_factor: float = 1 / 3,
        warmup_iters: int = 500,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ) -> None:
        self.max_iters = max_iters
        self.min_factor = min_factor
        self.warmup = Warmup(warmup_factor, warmup_iters, warmup_method)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        share = cosine(1.0, self.min_factor, self.last_epoch, self.max_iters)
        share *= self.warmup.share(self.last_epoch)
        return [base_lr * share for base_lr in self.base_lrs]


class OneCycleLR(ClosedFormLR):
    """One rise and one fall, each half a cosine (Smith and Topin, "Super-Convergence").

    From `start_factor` of the rate to the whole over the first `warmup_fraction` of `max_iters`,
    then to `min_factor` of it after the last. Unlike torch's, it leaves the momentum alone, and
    stays at the last rate afterwards. Raises ValueError if warmup_fraction is not in [0, 1].
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_iters: int,
        warmup_fraction: float = 0.1,
        start_factor: float = 0.04,
        min_factor: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if not 0 <= warmup_fraction <= 1:
            raise ValueError(
                f"warmup_fraction is {warmup_fraction}, but must be between 0 and 1: it is "
                "the part of the run in which the rate rises (SOLVER.ONE_CYCLE_WARMUP_FRACTION)"
            )
        self.max_iters = max_iters
        self.warmup_fraction = warmup_fraction
        self.start_factor = start_factor
        self.min_factor = min_factor
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        peak = self.warmup_fraction * self.max_iters
        if self.last_epoch < peak:
            share = cosine(self.start_factor, 1.0, self.last_epoch, peak)
        else:
            share = cosine(1.0, self.min_factor, self.last_epoch - peak, self.max_iters - peak)
        return [base_lr * share for base_lr in self.base_lrs]


def cosine(start: float, end: float, step: float, length: float) -> float:
    """From start at step 0 to end at step `length` along half a cosine; then it stays there."""
    progress = step / length if step < length else 1.0
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))

"""What happens when a loss or a gradient is no longer a number."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from detengine.distributed.comm import all_gather, get_rank
from detengine.structures.batch import Batch

logger = logging.getLogger("detengine.trainer")

OnNonFinite = Literal["stop", "skip"]


class NonFiniteError(FloatingPointError):
    """The training met a loss or a gradient that is not finite; the bad step was not applied."""


class _Step(NamedTuple):
    iteration: int
    lr: float
    image_ids: list[int]
    losses: Mapping[str, Tensor]
    found_inf: Tensor


class NonFiniteGuard:
    """Keeps each step's losses and its found_inf flag on the device until `check` reads them.

    The step itself was already skipped on the device (`Precision.step`), so nothing is lost by
    looking later: at a log line, and before a checkpoint is written.
    gradients_may_overflow: True under dynamic loss scaling, where an infinite gradient only means
    that the scale is being searched; the losses alone are judged then.
    """

    def __init__(self, policy: OnNonFinite, *, gradients_may_overflow: bool = False) -> None:
        self._policy = policy
        self._gradients_may_overflow = gradients_may_overflow
        self._steps: list[_Step] = []

    def record(
        self,
        iteration: int,
        lr: float,
        batches: Sequence[Batch],
        losses: Mapping[str, Tensor],
        found_inf: Tensor,
    ) -> None:
        """Remember one step, without reading anything from the device."""
        image_ids = [image_id for batch in batches for image_id in batch.image_ids]
        self._steps.append(_Step(iteration, lr, image_ids, losses, found_inf))

    def check(self) -> None:
        """Read what was recorded since the last check. Called by all ranks at the same iteration.

        Raises NonFiniteError on every rank if any rank met a non-finite step and the policy is to
        stop; warns if it is to skip.
        """
        reports = [report for rank in all_gather(self._read()) for report in rank]
        if reports and self._policy == "stop":
            raise NonFiniteError(
                "training stopped at a loss or gradient that is not finite; the step was not "
                "applied, and no checkpoint holds its effect.\n  "
                + "\n  ".join(reports[:10])
                + "\nLook at these images' annotations, lower SOLVER.BASE_LR, warm up longer, "
                "set SOLVER.CLIP_NORM, or go on without such steps: SOLVER.ON_NONFINITE skip."
            )
        for report in reports:
            logger.warning("step skipped: %s", report)

    def _read(self) -> list[str]:
        steps, self._steps = self._steps, []
        if not steps:
            return []
        skipped = torch.cat([step.found_inf for step in steps]).tolist()
        values = torch.stack([step.losses["loss"] for step in steps]).tolist()
        return [
            _describe(step)
            for step, flag, loss in zip(steps, skipped, values, strict=True)
            if not math.isfinite(loss) or (flag and not self._gradients_may_overflow)
        ]


def _describe(step: _Step) -> str:
    losses = ", ".join(f"{name} {value.item():.4g}" for name, value in step.losses.items())
    return (
        f"iteration {step.iteration}, rank {get_rank()}, image ids {step.image_ids}, "
        f"lr {step.lr:.3g}: {losses}"
    )

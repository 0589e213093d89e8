"""What happens when a loss or a gradient is no longer a number."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detengine.checkpoint.align import unwrapped
from detengine.checkpoint.files import save_file
from detengine.distributed.comm import all_gather, broadcast, get_rank, is_main_process
from detengine.engine.nonfinite_record import (
    PATTERN,
    WEIGHTS_SUFFIX,
    NonFiniteRecord,
    RankShare,
    replay_command,
    write_record,
)
from detengine.engine.running_statistics import RunningStatistics
from detengine.monitor.scalars import Scalars
from detengine.solver.precision import Precision, note_nonfinite
from detengine.structures.batch import Batch

logger = logging.getLogger("detengine.trainer")

OnNonFinite = Literal["stop", "skip"]

MOST_RECORDS = 10
"""Files of skipped steps in a run's folder; the step that ends the run has one in any case."""


class NonFiniteError(FloatingPointError):
    """The training met a loss or a gradient that is not finite; the bad step was not applied."""


@dataclass(frozen=True)
class NonFinitePolicy:
    """What to do at such a step. skip_limit: under "skip", so many in a row end the run too."""

    on_nonfinite: OnNonFinite = "stop"
    skip_limit: int = 10

    def __post_init__(self) -> None:
        if self.on_nonfinite not in get_args(OnNonFinite) or self.skip_limit < 1:
            raise ValueError(
                f"the policy for steps that are not finite is {self.on_nonfinite!r}, "
                f'{self.skip_limit} in a row; expected "stop" or "skip" '
                "(SOLVER.ON_NONFINITE), and at least 1 (SOLVER.SKIP_LIMIT)"
            )

    @property
    def limit(self) -> int:
        """How many in a row end the run."""
        return 1 if self.on_nonfinite == "stop" else self.skip_limit


class _Step(NamedTuple):
    iteration: int
    lr: float
    image_ids: list[list[int]]
    losses: Scalars
    bad: Tensor


class NonFiniteGuard:
    """Sees to it that a step that is not finite leaves no trace, and tells of it at the next check.

    Around each step it works on the device alone, on all ranks alike. Once a step has ended the
    run, every later one is skipped as well, so that at the check, a log line or a checkpoint later,
    the weights are those before it. Under dynamic loss scaling an infinite gradient only means that
    the scale is being searched: there the losses alone are judged.
    folder: where rank 0 leaves a record of each bad step; None writes nothing.
    seed: of the run's randomness, for the record.
    """

    def __init__(
        self,
        policy: OnNonFinite | NonFinitePolicy,
        model: nn.Module,
        precision: Precision,
        *,
        folder: Path | None = None,
        seed: int | None = None,
    ) -> None:
        self._policy = NonFinitePolicy(policy) if isinstance(policy, str) else policy
        self._model = model
        self._precision = precision
        self._folder = folder
        self._seed = seed
        self._statistics = RunningStatistics(model)
        self._in_a_row = torch.zeros(1, device=next(model.parameters()).device)
        self._in_a_row_before = 0  # of the steps that were read
        self._bad = self._in_a_row
        self._steps: list[_Step] = []

    def before_step(self) -> Tensor:
        """Remember what a forward pass changes. float32[1]: 1 if the run ended at a step before."""
        self._statistics.keep()
        if self._policy.limit == 1:
            return self._bad  # a single bad step ends the run, and those after it are bad as well
        return (self._in_a_row >= self._policy.limit).float()

    def after_step(self, must_skip: Tensor | None, found_inf: Tensor) -> None:
        """Undo what the forward pass has changed if the step was skipped, and count it.

        must_skip: 1 where it was a loss; only asked for where gradients may be infinite.
        """
        self._statistics.put_back(found_inf)
        judged = must_skip if self._precision.scales_loss else None
        self._bad = found_inf if judged is None else judged
        if self._policy.limit > 1:
            self._in_a_row = (self._in_a_row + 1) * self._bad

    def record(self, iteration: int, lr: float, batches: Sequence[Batch], losses: Scalars) -> None:
        """Remember the step that was made, without reading anything from the device."""
        image_ids = [list(batch.image_ids) for batch in batches]
        self._steps.append(_Step(iteration, lr, image_ids, losses, self._bad))

    def check(self) -> None:
        """Read what was recorded since the last check. Called by all ranks at the same iteration.

        Raises NonFiniteError on every rank if a step has ended the run; warns of the steps that
        were skipped. Rank 0 has written a record of each, as far as it can be written.
        """
        bad_steps, has_ended = self._read()
        of_ranks = all_gather([_share(step) for step in bad_steps])
        if not bad_steps:
            return
        records = [
            NonFiniteRecord(
                step.iteration,
                step.lr,
                self._seed,
                len(step.image_ids),
                self._precision.dtype,
                list(shares),
            )
            for step, shares in zip(bad_steps, zip(*of_ranks, strict=True), strict=True)
        ]
        # The others wait for rank 0: a rank that ends takes the rest of them with it.
        where = broadcast(self._write(records, has_ended) if is_main_process() else "")
        skipped = records[:-1] if has_ended else records
        for line in [line for record in skipped for line in record.describe()]:
            logger.warning("step skipped: %s", line)
        if not has_ended:
            logger.warning("%s", where)
            return
        raise NonFiniteError(self._explain(records[-1], where))

    def _read(self) -> tuple[list[_Step], bool]:
        """The bad steps, up to the one that ended the run, and whether there is such a one."""
        steps, self._steps = self._steps, []
        bad_steps: list[_Step] = []
        flags = torch.cat([step.bad for step in steps]).tolist() if steps else []
        for step, is_bad in zip(steps, flags, strict=True):
            self._in_a_row_before = self._in_a_row_before + 1 if is_bad else 0
            if is_bad:
                bad_steps.append(step)
            if self._in_a_row_before >= self._policy.limit:
                return bad_steps, True
        return bad_steps, False

    def _write(self, records: Sequence[NonFiniteRecord], has_ended: bool) -> str:
        """Rank 0's sentence about the files that it has written, or why it could not."""
        if self._folder is None:
            return "No record was written, because the run has no folder."
        room = MOST_RECORDS - len(list(self._folder.glob(PATTERN)))
        skipped = records[:-1] if has_ended else records
        kept = [*skipped[: max(room, 0)], *records[len(skipped) :]]
        paths = [record.path_in(self._folder) for record in kept]
        try:
            for path, record in zip(paths, kept, strict=True):
                write_record(path, record)
            if has_ended:
                weights = dict(unwrapped(self._model).state_dict())
                entries = {"model": weights, "iteration": records[-1].iteration - 1}
                save_file(paths[-1].with_suffix(WEIGHTS_SUFFIX), entries)
        except Exception as error:  # whatever it is, it must not hide what the record is about
            return f"Its record could not be written: {error}"
        if not paths:
            return f"{self._folder} holds {MOST_RECORDS} records; of further steps none is kept."
        command = replay_command(paths[-1])
        return f"To repeat it: {command}" if command else f"It is recorded in {paths[-1]}."

    def _explain(self, record: NonFiniteRecord, where: str) -> str:
        if self._policy.on_nonfinite == "stop":
            what = "training stopped at a loss or gradient that is not finite"
            cure = ", or go on without such steps: SOLVER.ON_NONFINITE skip"
        else:
            what = f"training stopped at {self._policy.limit} steps in a row with a loss or "
            what += "gradient that is not finite (SOLVER.SKIP_LIMIT)"
            cure = ""
        return (
            f"{what}; the step was not applied, and no checkpoint holds its effect.\n  "
            + "\n  ".join(record.describe())
            + "\nLook at these images' annotations, lower SOLVER.BASE_LR, warm up longer, or set "
            f"SOLVER.CLIP_NORM{cure}.\n{where}"
        )


def nonfinite_on_any_rank(losses: Tensor, model: nn.Module, ended: Tensor | None = None) -> Tensor:
    """float32[1] on the losses' device: 1 if one is not finite, on any rank of a parallel model.

    A loss may be infinite and have finite gradients, so that these alone cannot tell the others of
    it. losses: without a graph. ended: float32[1], alike on all ranks; the flag is 1 where it is.
    The host waits for no device; with gloo on CPUs, for the other ranks.
    """
    flag = torch.zeros(1, device=losses.device) if ended is None else ended.clone()
    note_nonfinite([losses], flag)
    if isinstance(model, DistributedDataParallel):
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=model.process_group)
    return flag


def total_loss(losses: Mapping[str, Tensor], image_ids: Sequence[int]) -> Tensor:
    """The sum of a model's losses for these images.

    Raises ValueError, naming the images, for what cannot be trained on.
    """
    raise_if_no_losses(losses, image_ids)
    total: Any = sum(losses.values())
    if not total.requires_grad:
        _refuse(
            f"{', '.join(map(repr, losses))} without a graph, which depend on no trained parameter",
            image_ids,
        )
    return total  # type: ignore[no-any-return]  # sum() may be of nothing


def raise_if_no_losses(losses: Mapping[str, Tensor], image_ids: Sequence[int]) -> None:
    """Raise ValueError, naming the images, unless it is a dict of tensors of one number."""
    if not isinstance(losses, Mapping):
        _refuse(f"a {type(losses).__name__}", image_ids)
    if not losses:
        _refuse("no loss at all", image_ids)
    for name, loss in losses.items():
        if not isinstance(loss, Tensor):
            _refuse(f"{name!r} as a {type(loss).__name__}", image_ids)
        if loss.numel() != 1:
            _refuse(f"{name!r} as a tensor of shape {tuple(loss.shape)}", image_ids)


def _refuse(returned: str, image_ids: Sequence[int]) -> NoReturn:
    raise ValueError(
        f"in training the model returned {returned}, for image ids {list(image_ids)} on rank "
        f"{get_rank()}; expected a dict of losses, each a tensor of one number, whose sum depends "
        "on a trained parameter. Where there is nothing to learn from, return 0 times the sum of "
        "what the model has computed."
    )


def _share(step: _Step) -> RankShare:
    """What this rank has of a step, read from the device."""
    return RankShare(step.image_ids, step.losses.numbers())

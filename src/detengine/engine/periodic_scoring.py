"""Scoring a model while it is trained: when it is due, where it goes, and the best one kept.

And when there is no better one to come, so that the training ends early.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detengine.checkpoint.checkpointer import Checkpointer
from detengine.checkpoint.history import FINAL, checkpoint_name
from detengine.engine.stopping import StopRequestedError
from detengine.monitor.sinks import Sink

logger = logging.getLogger("detengine.trainer")

Evaluate = Callable[[], Mapping[str, float]]
"""Scores the model as it is, on all ranks; flat metrics such as `val/<test set>/bbox/AP50`."""


@dataclass(frozen=True)
class BestMetric:
    """What the best checkpoint is chosen by, and when there is no better one to come.

    name: of the metric, such as `val/<test set>/bbox/AP`. lower_is_better: as of a loss.
    patience: so many evaluations in a row without a better value end the training; None: none do.
    """

    name: str
    lower_is_better: bool = False
    patience: int | None = None

    def is_better(self, value: float, than: float | None) -> bool:
        """than: the best so far, if any. What is not a number, or infinitely bad, never is."""
        sign = -1 if self.lower_is_better else 1
        return sign * value > (-math.inf if than is None else sign * than)


def has_ended_early(arguments: Mapping[str, Any], best_metric: BestMetric | None) -> bool:
    """Whether a run stands at the evaluation that was the last one that it had patience for.

    arguments: do_train's, or a checkpoint's. With more patience, or by another metric, it has not.
    """
    count = arguments.get("without_better")
    if best_metric is None or best_metric.patience is None or count is None:
        return False
    stands_there = count["iteration"] == arguments["iteration"]
    is_over = count["evaluations"] >= best_metric.patience
    return bool(stands_there and is_over and count["metric"] == best_metric.name)


class PeriodicScoring:
    """Scores every `period` iterations and after the last; without `evaluate`, never.

    best_metric: chooses what is kept as `model_best`, and may end the training; None does neither.
    A name alone is that of a metric of which higher is better.
    seconds: what all scoring took so far.
    """

    def __init__(
        self,
        evaluate: Evaluate | None,
        period: int,
        sinks: Sequence[Sink],
        best_metric: BestMetric | str | None,
        checkpointer: Checkpointer,
    ) -> None:
        self._evaluate = evaluate
        self._period = period
        self._sinks = sinks
        self._checkpointer = checkpointer
        self._best_metric = BestMetric(best_metric) if isinstance(best_metric, str) else best_metric
        self.seconds = 0.0

    def is_due(self, iteration: int, max_iter: int) -> bool:
        if self._evaluate is None or not iteration:
            return False
        return iteration == max_iter or bool(self._period and iteration % self._period == 0)

    def is_owed(self, arguments: Mapping[str, Any], max_iter: int) -> bool:
        """Whether the run was stopped between an iteration and its scoring.

        With a best metric, also after the scoring: the best may not have been saved any more.
        """
        iteration = arguments["iteration"]
        is_done = arguments.get("scored") == iteration and self._best_metric is None
        return self.is_due(iteration, max_iter) and not is_done

    def catch_up(self, arguments: dict[str, Any], max_iter: int) -> bool:
        """Before the first step, score what is owed; called by all ranks.

        Returns whether to train: False if the run is to stop, or has ended early, be it just now.
        """
        is_done = arguments["iteration"] == max_iter
        if is_done and self._checkpointer.resumed_from not in ("", FINAL):
            self._checkpointer.save(FINAL, **arguments)  # the run ended before it was written
        had_ended = self._has_ended(arguments, max_iter)
        goes_on = not self.is_owed(arguments, max_iter) or self.run(arguments, max_iter)
        has_ended = self._has_ended(arguments, max_iter)
        if has_ended and not had_ended:
            self._checkpointer.save(FINAL, **arguments)
            self._checkpointer.wait()
        return goes_on and not has_ended

    def run(self, arguments: dict[str, Any], max_iter: int) -> bool:
        """Score iteration `arguments["iteration"]`; called by all ranks.

        `arguments["scored"]` and `arguments["best"]` tell what was scored last, and the best so
        far; with a patience, `arguments["without_better"]` how many evaluations there were since.
        Returns whether to train on: False if the run is to stop, or has ended early.
        """
        if self._evaluate is None:
            return True
        start, iteration = time.perf_counter(), arguments["iteration"]
        had_ended = self._has_ended(arguments, max_iter)
        self._checkpointer.wait()  # loaders are forked now, beside no thread that writes
        try:
            metrics = self._evaluate()
        except StopRequestedError:
            logger.info("scoring iteration %d is left for the resumed run", iteration)
            return False
        if arguments.get("scored") != iteration:
            for sink in self._sinks:
                sink.write(iteration, metrics)
        arguments["scored"] = iteration
        if self._best_metric is not None:
            self._keep_if_best(self._best_metric, metrics, arguments, max_iter)
        self.seconds += time.perf_counter() - start
        has_ended = self._has_ended(arguments, max_iter)
        if self._best_metric is not None and has_ended and not had_ended:
            logger.info("%s", _why_it_ends(self._best_metric, arguments))
        return not has_ended

    def stop_name(self, arguments: Mapping[str, Any]) -> str:
        """That of the checkpoint to save where `run` said not to train on."""
        is_over = has_ended_early(arguments, self._best_metric)
        return FINAL if is_over else checkpoint_name(arguments["iteration"])

    def _has_ended(self, arguments: Mapping[str, Any], max_iter: int) -> bool:
        """Whether there are iterations left that will not be made."""
        is_over = has_ended_early(arguments, self._best_metric)
        return is_over and arguments["iteration"] < max_iter

    def _keep_if_best(
        self,
        by: BestMetric,
        metrics: Mapping[str, float],
        arguments: dict[str, Any],
        max_iter: int,
    ) -> None:
        if by.name not in metrics:
            raise ValueError(
                f"the best checkpoint is to be chosen by {by.name!r}, but the model is scored by "
                f"{', '.join(metrics)} (SOLVER.BEST_METRIC)"
            )
        best = _best_so_far(by, arguments)
        is_better = by.is_better(metrics[by.name], None if best is None else best["value"])
        _count(by, arguments, is_better=is_better)
        if is_better:
            arguments["best"] = {
                "metric": by.name,
                "value": float(metrics[by.name]),
                "iteration": arguments["iteration"],
            }
            self._checkpointer.save_best(**arguments)
            if arguments["iteration"] == max_iter:  # a raised MAX_ITER goes on from there
                self._checkpointer.save(FINAL, **arguments)


def _best_so_far(by: BestMetric, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """None where there is none by this metric."""
    best: dict[str, Any] | None = arguments.get("best")
    return best if best is not None and best["metric"] == by.name else None


def _count(by: BestMetric, arguments: dict[str, Any], *, is_better: bool) -> None:
    """Count the evaluations since the best; one that is done again, by a resumed run, once."""
    if by.patience is None:
        arguments.pop("without_better", None)
        return
    count = arguments.get("without_better")
    if count is None or count["metric"] != by.name:
        count = {"metric": by.name, "evaluations": 0, "iteration": None}
    if count["iteration"] != arguments["iteration"]:
        evaluations = 0 if is_better else count["evaluations"] + 1
        count = {**count, "evaluations": evaluations, "iteration": arguments["iteration"]}
    arguments["without_better"] = count


def evaluations_in_a_row(arguments: Mapping[str, Any]) -> str:
    """How many have not been better, in words; of a run with a patience."""
    count = arguments["without_better"]["evaluations"]
    return "1 evaluation" if count == 1 else f"{count} evaluations in a row"


def _why_it_ends(by: BestMetric, arguments: Mapping[str, Any]) -> str:
    best = _best_so_far(by, arguments)
    change = "fallen" if by.lower_is_better else "risen"
    times = evaluations_in_a_row(arguments)
    found = (
        "none gave a number"
        if best is None
        else f"the best, {best['value']:.4f}, is that of iteration {best['iteration']}"
    )
    return (
        f"the training ends early, after iteration {arguments['iteration']}: {by.name} has not "
        f"{change} over {times}; {found} (SOLVER.EARLY_STOPPING)"
    )

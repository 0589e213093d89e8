"""Scoring a model while it is trained: when it is due, where it goes, and the best one kept."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detengine.checkpoint.checkpointer import Checkpointer
from detengine.engine.stopping import StopRequestedError
from detengine.monitor.sinks import Sink

logger = logging.getLogger("detengine.trainer")

Evaluate = Callable[[], Mapping[str, float]]
"""Scores the model as it is, on all ranks; flat metrics such as `val/<test set>/bbox/AP50`."""


class PeriodicScoring:
    """Scores every `period` iterations and after the last; without `evaluate`, never.

    best_metric: of the metrics' names the one whose highest value is kept as `model_best`; None
    keeps none. seconds: what all scoring took so far.
    """

    def __init__(
        self,
        evaluate: Evaluate | None,
        period: int,
        sinks: Sequence[Sink],
        best_metric: str | None,
        checkpointer: Checkpointer,
    ) -> None:
        self._evaluate = evaluate
        self._period = period
        self._sinks = sinks
        self._checkpointer = checkpointer
        self._best_metric = best_metric
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

    def run(self, arguments: dict[str, Any]) -> bool:
        """Score iteration `arguments["iteration"]`; called by all ranks.

        `arguments["scored"]` and `arguments["best"]` tell what was scored last, and the best so
        far. Returns whether it was done: False if the run is to stop.
        """
        if self._evaluate is None:
            return True
        start, iteration = time.perf_counter(), arguments["iteration"]
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
        self._keep_if_best(metrics, arguments)
        self.seconds += time.perf_counter() - start
        return True

    def _keep_if_best(self, metrics: Mapping[str, float], arguments: dict[str, Any]) -> None:
        name = self._best_metric
        if name is None:
            return
        if name not in metrics:
            raise ValueError(
                f"the best checkpoint is to be chosen by {name!r}, but the model is scored by "
                f"{', '.join(metrics)} (SOLVER.BEST_METRIC)"
            )
        best = arguments.get("best")
        so_far = best["value"] if best is not None and best["metric"] == name else -math.inf
        if metrics[name] > so_far:  # False if it is not a number
            arguments["best"] = {
                "metric": name,
                "value": float(metrics[name]),
                "iteration": arguments["iteration"],
            }
            self._checkpointer.save_best(**arguments)

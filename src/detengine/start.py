"""Where a training begins: at its folder's own run, at named weights, or from nothing."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detengine.checkpoint.checkpointer import DetectronCheckpointer
from detengine.config.schema import Config
from detengine.data.dataset import DetectionDataset
from detengine.distributed.comm import broadcast
from detengine.engine.periodic_scoring import evaluations_in_a_row, has_ended_early
from detengine.expectations import best_metric_of
from detengine.monitor.sinks import METRICS, last_iteration_with
from detengine.solver.ema import ModelEMA

logger = logging.getLogger("detengine.run")


def start_or_resume(
    cfg: Config,
    checkpointer: DetectronCheckpointer,
    folder: Path,
    datasets: Sequence[DetectionDataset],
    *,
    ema: ModelEMA | None,
    resume: bool,
) -> dict[str, Any]:
    """Load what is asked for: the folder's own run, or MODEL.WEIGHT as a beginning; all ranks.

    datasets: those that are trained on; a run goes on with none but its own. ema: of the model; it
    begins at the loaded weights. Returns do_train's arguments.
    """
    if resume and checkpointer.has_checkpoint():
        arguments = checkpointer.resume()
        _say_how_far(cfg, arguments, folder)
        _raise_if_data_changed(arguments["data"], _identity_of(datasets), folder)
        until = arguments["iteration"]
        arguments["scored"] = broadcast(last_iteration_with("val/", folder / METRICS, until=until))
        return arguments
    if resume:
        logger.warning("there is no run in %s to resume; a new one starts", folder)
    if cfg.MODEL.WEIGHT:
        checkpointer.load(cfg.MODEL.WEIGHT, strict=False)
        if ema is not None:
            ema.restart()
    return {"iteration": 0, "seed": cfg.SEED, "data": _identity_of(datasets)}


def _say_how_far(cfg: Config, arguments: dict[str, Any], folder: Path) -> None:
    iteration, max_iter = arguments["iteration"], cfg.SOLVER.MAX_ITER
    if iteration > max_iter:
        raise ValueError(
            f"the run in {folder} has done {iteration} iterations, but SOLVER.MAX_ITER is "
            f"{max_iter}; set it to {iteration} or more to go on with the run"
        )
    if iteration == max_iter:
        logger.info(
            "the run in %s is finished: all %d iterations are done. Raise SOLVER.MAX_ITER to go on "
            "with it",
            folder,
            max_iter,
        )
    elif has_ended_early(arguments, best_metric_of(cfg)):
        logger.info(
            "the run in %s has ended early, after %d of %d iterations, because %s had not become "
            "better over %s. Raise SOLVER.EARLY_STOPPING, or set it to None, to go on "
            "with it",
            folder,
            iteration,
            max_iter,
            cfg.SOLVER.BEST_METRIC,
            evaluations_in_a_row(arguments),
        )
    else:
        logger.info("%d of %d iterations are done", iteration, max_iter)


def _identity_of(datasets: Sequence[DetectionDataset]) -> dict[str, Any]:
    return {
        each.name: {"images": len(each), "sha256": each.ground_truth().digest()}
        for each in datasets
    }


def _raise_if_data_changed(then: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    for name in now:
        if then[name] != now[name]:
            raise ValueError(
                f"the data set {name!r} is not the one that the run in {folder} was started with: "
                f"its images, annotations or classes have changed ({then[name]['images']} images "
                f"then, {now[name]['images']} now). Put it back to go on with the run, or train "
                "from its last checkpoint on the new data: MODEL.WEIGHT, another OUTPUT_DIR."
            )

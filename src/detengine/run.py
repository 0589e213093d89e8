"""Where everything is put together: train and evaluate. `loading` is the way back."""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detengine.agreement import (
    raise_if_data_differ,
    raise_if_given_otherwise,
    raise_if_weights_differ,
)
from detengine.checkpoint.catalog import find_source, find_weights
from detengine.checkpoint.checkpointer import DetectronCheckpointer
from detengine.checkpoint.readers import read_file
from detengine.config.load import to_yaml
from detengine.config.scaling import scaled
from detengine.config.schema import Config
from detengine.data.build import (
    Loader,
    build_datasets,
    make_data_loader,
    raise_if_indivisible,
)
from detengine.data.workers import naming_dead_workers
from detengine.disk.checksums import write_checked_text
from detengine.disk.writing import remove
from detengine.distributed.batch_norm import share_buffers
from detengine.distributed.comm import get_world_size, is_distributed, is_main_process
from detengine.distributed.launch import start_distributed
from detengine.distributed.parallel import distribute
from detengine.distributed.watchdog import Watchdog, watched
from detengine.engine.determinism import deterministic
from detengine.engine.nondeterminism import raise_if_not_deterministic
from detengine.engine.nonfinite import NonFinitePolicy
from detengine.engine.out_of_memory import telling_what_memory_was_for
from detengine.engine.periodic_scoring import has_ended_early
from detengine.engine.phase import position_of
from detengine.engine.stopping import StopRequestedError, stop_on_request
from detengine.engine.trainer import do_train
from detengine.expectations import best_metric_of, check_expectations, raise_if_not_measured
from detengine.modeling.build import build_detection_model
from detengine.monitor.build import raise_if_not_installed, watching
from detengine.monitor.logs import logging_to, setup_logging
from detengine.monitor.timer import Stages
from detengine.output_folder import CONFIG, held, make_output_folder, prepare_output_folder
from detengine.parts import Parts, build_parts, with_num_classes, with_views
from detengine.run_report.live import Report, reported
from detengine.scoring import PER_CLASS, RESULTS, Results, flat, score, send_pictures
from detengine.start import start_or_resume

logger = logging.getLogger("detengine.run")


@dataclass(frozen=True)
class RunResult:
    """A trained model with what it scored.

    results: by test set; empty where nothing was scored. finished: False if the run was stopped on
    request, and can be resumed; one that ended early (SOLVER.EARLY_STOPPING) is finished.
    """

    model: nn.Module
    results: Results
    output_folder: Path
    finished: bool


def train(cfg: Config, *, resume: bool = False, skip_test: bool = False) -> RunResult:
    """Train on DATASETS.TRAIN and score on DATASETS.TEST; called by all ranks.

    Everything is written to OUTPUT_DIR. resume: go on with the run that is there; where there is
    none, one is started, and that is said. skip_test: score nothing, neither on the way nor at the
    end. Raises FileExistsError if the folder holds a run and resume is False, BlockingIOError if
    another process trains in it; ValueError or OSError for what is amiss with configuration, data
    or folder; NonFiniteError; ExpectedResultsError.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name at least one data set to train on")
    raise_if_not_installed(cfg)
    stages = Stages()
    cfg, scaling = scaled(cfg)
    device = start_distributed(cfg.MODEL.DEVICE, cfg.DISTRIBUTED.TIMEOUT)
    with _observed(cfg) as (report, watchdog):
        raise_if_given_otherwise(cfg, resume=resume, skip_test=skip_test)
        raise_if_indivisible(cfg, get_world_size())
        folder = prepare_output_folder(cfg.OUTPUT_DIR, resume=resume)
        with (
            held(folder),
            stop_on_request(cfg.SOLVER.TIME_LIMIT) as should_stop,
            deterministic(device, enabled=cfg.DETERMINISTIC),
        ):
            setup_logging(folder)  # open until the last error is in it
            if scaling:
                logger.info("%s", scaling)
            stages.end("processes and folder")
            parts = build_parts(cfg, folder, device, skip_test=skip_test, stages=stages)
            raise_if_data_differ([*parts.datasets, *parts.test_sets])
            training = _Training(parts, device, should_stop, watchdog, report, stages)
            result = training.run(resume=resume)
            if not result.finished:
                report.stop()
            return result


@contextmanager
def _observed(cfg: Config) -> Iterator[tuple[Report, Watchdog]]:
    """What sees a whole run, until its last error: the log, its report and the watchdog."""
    with (
        logging_to(None),
        reported(cfg) as report,
        watched(cfg.DISTRIBUTED.TIMEOUT, position_of) as watchdog,
        telling_what_memory_was_for(),
    ):
        yield report, watchdog


@dataclass(frozen=True)
class _Training:
    """A training's parts, and what surrounds them while it lasts."""

    parts: Parts
    device: torch.device
    should_stop: Callable[[], bool]
    watchdog: Watchdog
    report: Report
    stages: Stages

    def run(self, *, resume: bool) -> RunResult:
        """Train to the end, or until it is to stop, and score what came out."""
        cfg, parts = self.parts.cfg, self.parts
        arguments = self._begin(resume=resume)
        start_iter = arguments["iteration"]
        loader = make_data_loader(cfg, True, is_distributed(), start_iter, datasets=parts.datasets)
        raise_if_not_deterministic(
            parts.model, loader, self.device, parts.precision, scored=bool(parts.test_sets)
        )
        scores_after = self._scoring(resumed_at=start_iter if resume else None)
        self._iterate(loader, arguments, scores_after)
        iteration, results = arguments["iteration"], {}
        is_early = has_ended_early(arguments, best_metric_of(cfg))
        finished = iteration == cfg.SOLVER.MAX_ITER or is_early
        if finished and parts.test_sets:
            try:
                results = scores_after(iteration)
            except StopRequestedError:
                finished = False
        check_expectations(cfg, results)
        return RunResult(parts.model, results, parts.folder, finished)

    def _begin(self, *, resume: bool) -> dict[str, Any]:
        """Load what it begins with, and write down what it is; gives do_train's arguments."""
        cfg, parts = self.parts.cfg, self.parts
        arguments = start_or_resume(
            cfg, parts.checkpointer, parts.folder, parts.datasets, ema=parts.ema, resume=resume
        )
        start_iter = arguments["iteration"]
        if is_main_process():
            write_checked_text(parts.folder / CONFIG, to_yaml(cfg))
        self.stages.end("weights")
        self.report.begin(
            "train",
            cfg,
            parts.folder,
            self.device,
            self.stages,
            start_iter=start_iter,
            weights="" if start_iter else cfg.MODEL.WEIGHT,
            checkpoint_seconds=lambda: parts.checkpointer.seconds,
        )
        return arguments

    def _scoring(self, *, resumed_at: int | None) -> Callable[[int], Results]:
        """What scores the model after so many iterations, each time once.

        resumed_at: after which an interrupted scoring of the same weights may be gone on with.
        """
        cfg, parts = self.parts.cfg, self.parts
        scored = with_views(cfg, parts.model, parts.test_sets)

        @functools.cache
        def scores_after(iteration: int) -> Results:
            averaged = nullcontext() if parts.ema is None else parts.ema.applied()
            with self.report.timed("evaluation"), averaged:
                share_buffers(parts.model)
                return score(
                    cfg, scored, parts.test_sets, parts.folder, self.device, self.watchdog,
                    should_stop=self.should_stop, resume=iteration == resumed_at,
                )  # fmt: skip

        return scores_after

    def _iterate(
        self, loader: Loader, arguments: dict[str, Any], scores_after: Callable[[int], Results]
    ) -> None:
        """All iterations that are left, with what is scored and written on the way."""
        cfg, parts = self.parts.cfg, self.parts
        parallel_model = distribute(
            parts.model,
            self.device,
            foreign=cfg.MODEL.BUILDER is not None,
            static_graph=cfg.DISTRIBUTED.STATIC_GRAPH,
            sync_batchnorm=cfg.DISTRIBUTED.SYNC_BATCHNORM,
            accumulate=cfg.SOLVER.ACCUMULATE,
        )
        self.stages.end("loader")
        logger.info("Ready after %s", self.stages)
        with (
            watching(cfg, loader, parts.folder, arguments["iteration"]) as (batches, sinks),
            naming_dead_workers(loader),
        ):

            def scores_and_pictures() -> Mapping[str, float]:
                results = scores_after(arguments["iteration"])
                send_pictures(cfg, parts.folder, arguments, sinks)
                return flat(results)

            do_train(
                parallel_model,
                self.watchdog.batches(batches),
                parts.optimizer,
                parts.scheduler,
                parts.checkpointer,
                self.device,
                cfg.SOLVER.CHECKPOINT_PERIOD,
                arguments,
                precision=parts.precision,
                ema=parts.ema,
                accumulate=cfg.SOLVER.ACCUMULATE,
                clip_norm=cfg.SOLVER.CLIP_NORM,
                seed=cfg.SEED,
                log_period=cfg.SOLVER.LOG_PERIOD,
                sinks=[*sinks, self.report],
                evaluate=scores_and_pictures if parts.test_sets else None,
                eval_period=cfg.SOLVER.TEST_PERIOD,
                best_metric=best_metric_of(cfg),
                should_stop=self.should_stop,
                on_nonfinite=NonFinitePolicy(cfg.SOLVER.ON_NONFINITE, cfg.SOLVER.SKIP_LIMIT),
            )


def evaluate(cfg: Config, weights: str | Path, *, resume: bool = False) -> Results:
    """Score a checkpoint on DATASETS.TEST; called by all ranks.

    weights: as MODEL.WEIGHT. The averaged ones (EMA) are taken where the file has them, its class
    names, and nothing else. resume: what OUTPUT_DIR has of an interrupted scoring of the same
    weights is not predicted again.
    Results, predictions and pictures go to OUTPUT_DIR. Raises as `train` does.
    """
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: name at least one data set to score on")
    raise_if_not_measured(cfg)
    device = start_distributed(cfg.MODEL.DEVICE, cfg.DISTRIBUTED.TIMEOUT)
    with (
        _observed(cfg) as (report, watchdog),
        deterministic(device, enabled=cfg.DETERMINISTIC),
    ):
        raise_if_given_otherwise(cfg, resume=resume)
        folder = make_output_folder(cfg.OUTPUT_DIR)
        setup_logging(folder)  # open until the last error is in it
        if is_main_process():
            for name in (RESULTS, PER_CLASS):  # of other weights, should this one not end
                remove(folder / name)
        return _evaluate(cfg, str(weights), folder, device, watchdog, report=report, resume=resume)


def _evaluate(
    cfg: Config,
    weights: str,
    folder: Path,
    device: torch.device,
    watchdog: Watchdog,
    *,
    report: Report,
    resume: bool,
) -> Results:
    stages = Stages()
    published = find_source(weights)
    class_names = read_file(find_weights(weights)).get("categories") or None
    if class_names is None and published is not None:
        class_names = published.class_names or None
    test_sets = build_datasets(cfg, cfg.DATASETS.TEST, class_names, for_scoring=True)
    raise_if_data_differ(test_sets)
    class_names = test_sets[0].class_names
    cfg = with_num_classes(cfg, class_names)
    model = build_detection_model(cfg).to(device)
    DetectronCheckpointer(cfg, model, class_names=class_names).load(weights)
    raise_if_weights_differ(model)
    stages.end("data sets, model and weights")
    report.begin("eval", cfg, folder, device, stages, weights=weights)
    scored = with_views(cfg, model, test_sets)
    with report.timed("evaluation"):
        results = score(cfg, scored, test_sets, folder, device, watchdog, resume=resume)
    check_expectations(cfg, results)
    return results

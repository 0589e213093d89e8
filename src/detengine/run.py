"""Where everything is put together: train and evaluate. `loading` is the way back."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from detengine.checkpoint.catalog import find_source, find_weights
from detengine.checkpoint.checkpointer import DetectronCheckpointer
from detengine.checkpoint.files import write_text
from detengine.checkpoint.readers import read_file
from detengine.config.load import replace, to_yaml
from detengine.config.scaling import scaled
from detengine.config.schema import Config
from detengine.data.build import (
    build_datasets,
    make_data_loader,
    number_of_classes,
    raise_if_indivisible,
)
from detengine.data.dataset import DetectionDataset
from detengine.data.workers import naming_dead_workers
from detengine.distributed.batch_norm import share_buffers
from detengine.distributed.comm import get_world_size, is_distributed, is_main_process
from detengine.distributed.launch import start_distributed
from detengine.distributed.parallel import distribute
from detengine.distributed.watchdog import Watchdog, watched
from detengine.engine.build import build_test_time_augmentation, keypoint_flip_of
from detengine.engine.determinism import deterministic
from detengine.engine.nonfinite import NonFinitePolicy
from detengine.engine.periodic_scoring import has_ended_early
from detengine.engine.phase import position_of
from detengine.engine.stopping import StopRequestedError, stop_on_request
from detengine.engine.trainer import do_train
from detengine.expectations import best_metric_of, check_expectations, raise_if_not_measured
from detengine.modeling.build import build_detection_model
from detengine.monitor.build import raise_if_not_installed, watching
from detengine.monitor.logs import logging_to, setup_logging
from detengine.monitor.timer import Stages
from detengine.output_folder import held, make_output_folder, prepare_output_folder
from detengine.run_reporting import Report, reported
from detengine.scoring import PER_CLASS, RESULTS, Results, flat, score, send_pictures
from detengine.solver.build import make_lr_scheduler, make_optimizer
from detengine.solver.ema import ModelEMA
from detengine.solver.precision import Precision
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
    with (
        logging_to(None),
        reported(cfg) as report,
        watched(cfg.DISTRIBUTED.TIMEOUT, position_of) as watchdog,
    ):
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
            result = _train(
                parts, device, should_stop, watchdog, report, resume=resume, stages=stages
            )
            if not result.finished:
                report.stop()
            return result


def _train(
    parts: "Parts",
    device: torch.device,
    should_stop: Callable[[], bool],
    watchdog: Watchdog,
    report: Report,
    *,
    resume: bool,
    stages: Stages,
) -> RunResult:
    cfg, folder, model = parts.cfg, parts.folder, parts.model
    arguments = start_or_resume(
        cfg, parts.checkpointer, folder, parts.datasets, ema=parts.ema, resume=resume
    )
    start_iter, best_metric = arguments["iteration"], best_metric_of(cfg)
    if is_main_process():
        write_text(folder / "config.yaml", to_yaml(cfg))
    stages.end("weights")
    report.begin(
        "train",
        cfg,
        folder,
        device,
        stages,
        start_iter=start_iter,
        weights="" if start_iter else cfg.MODEL.WEIGHT,
        checkpoint_seconds=lambda: parts.checkpointer.seconds,
    )
    loader = make_data_loader(cfg, True, is_distributed(), start_iter, datasets=parts.datasets)
    scored = with_views(cfg, model, parts.test_sets)

    @functools.cache
    def scores_after(iteration: int) -> Results:
        averaged = nullcontext() if parts.ema is None else parts.ema.applied()
        with report.timed("evaluation"), averaged:
            share_buffers(model)
            return score(
                cfg, scored, parts.test_sets, folder, device, watchdog,
                should_stop=should_stop, resume=resume and iteration == start_iter,
            )  # fmt: skip

    parallel_model = distribute(
        model,
        device,
        foreign=cfg.MODEL.BUILDER is not None,
        static_graph=cfg.DISTRIBUTED.STATIC_GRAPH,
        sync_batchnorm=cfg.DISTRIBUTED.SYNC_BATCHNORM,
        accumulate=cfg.SOLVER.ACCUMULATE,
    )
    stages.end("loader")
    logger.info("Ready after %s", stages)
    with watching(cfg, loader, folder, start_iter) as (batches, sinks), naming_dead_workers(loader):

        def scores_and_pictures() -> Mapping[str, float]:
            results = scores_after(arguments["iteration"])
            send_pictures(cfg, folder, arguments, sinks)
            return flat(results)

        do_train(
            parallel_model,
            watchdog.batches(batches),
            parts.optimizer,
            parts.scheduler,
            parts.checkpointer,
            device,
            cfg.SOLVER.CHECKPOINT_PERIOD,
            arguments,
            precision=parts.precision,
            ema=parts.ema,
            accumulate=cfg.SOLVER.ACCUMULATE,
            clip_norm=cfg.SOLVER.CLIP_NORM,
            seed=cfg.SEED,
            log_period=cfg.SOLVER.LOG_PERIOD,
            sinks=[*sinks, report],
            evaluate=scores_and_pictures if parts.test_sets else None,
            eval_period=cfg.SOLVER.TEST_PERIOD,
            best_metric=best_metric,
            should_stop=should_stop,
            on_nonfinite=NonFinitePolicy(cfg.SOLVER.ON_NONFINITE, cfg.SOLVER.SKIP_LIMIT),
        )
    iteration, max_iter, results = arguments["iteration"], cfg.SOLVER.MAX_ITER, {}
    finished = iteration == max_iter or has_ended_early(arguments, best_metric)
    if finished and parts.test_sets:
        try:
            results = scores_after(iteration)
        except StopRequestedError:
            finished = False
    check_expectations(cfg, results)
    return RunResult(model, results, folder, finished)


@dataclass(frozen=True)
class Parts:
    """What a training is put together from. cfg: with the number of classes."""

    cfg: Config
    folder: Path
    datasets: Sequence[DetectionDataset]
    test_sets: Sequence[DetectionDataset]
    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    precision: Precision
    ema: ModelEMA | None
    checkpointer: DetectronCheckpointer


def build_parts(
    cfg: Config, folder: Path, device: torch.device, *, skip_test: bool, stages: Stages
) -> Parts:
    """The parts, with weights as they are initialised; called by all ranks. Writes nothing."""
    datasets = build_datasets(cfg, cfg.DATASETS.TRAIN)
    class_names = datasets[0].class_names
    if not skip_test:
        raise_if_not_measured(cfg)
    elif cfg.SOLVER.BEST_METRIC is not None:
        logger.warning(
            "nothing is scored in this run (skip_test), so that SOLVER.BEST_METRIC and "
            "EARLY_STOPPING have no effect"
        )
    scored = () if skip_test else cfg.DATASETS.TEST
    test_sets = build_datasets(cfg, scored, class_names, for_scoring=True)
    stages.end("data sets")
    parts = assemble(cfg, folder, device, datasets, test_sets)
    stages.end("model and optimizer")
    return parts


def assemble(
    cfg: Config,
    folder: Path,
    device: torch.device,
    datasets: Sequence[DetectionDataset],
    test_sets: Sequence[DetectionDataset],
) -> Parts:
    """The parts around data sets that have been read; called by all ranks."""
    class_names = datasets[0].class_names
    cfg = with_num_classes(cfg, class_names)
    torch.manual_seed(cfg.SEED)
    model = build_detection_model(cfg).to(device)
    optimizer = make_optimizer(cfg, model)
    scheduler = make_lr_scheduler(cfg, optimizer)
    precision, ema = Precision(cfg.DTYPE), make_ema(cfg, model)
    checkpointer = DetectronCheckpointer(
        cfg, model, optimizer, scheduler, folder,
        precision=precision, ema=ema, class_names=class_names, background=True,
    )  # fmt: skip
    return Parts(
        cfg, folder, datasets, test_sets, model, optimizer, scheduler, precision, ema, checkpointer
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
        logging_to(None),
        reported(cfg) as report,
        watched(cfg.DISTRIBUTED.TIMEOUT, position_of) as watchdog,
    ):
        folder = make_output_folder(cfg.OUTPUT_DIR)
        setup_logging(folder)  # open until the last error is in it
        if is_main_process():
            for name in (RESULTS, PER_CLASS):  # of other weights, should this one not end
                (folder / name).unlink(missing_ok=True)
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
    class_names = test_sets[0].class_names
    cfg = with_num_classes(cfg, class_names)
    model = build_detection_model(cfg).to(device)
    DetectronCheckpointer(cfg, model, class_names=class_names).load(weights)
    stages.end("data sets, model and weights")
    report.begin("eval", cfg, folder, device, stages, weights=weights)
    scored = with_views(cfg, model, test_sets)
    with report.timed("evaluation"):
        results = score(cfg, scored, test_sets, folder, device, watchdog, resume=resume)
    check_expectations(cfg, results)
    return results


def with_num_classes(cfg: Config, class_names: Sequence[str]) -> Config:
    """The configuration, the number of classes taken from the data if it is not set."""
    key, given = number_of_classes(cfg)
    return cfg if given is not None else replace(cfg, {key: len(class_names) + 1})


def with_views(cfg: Config, model: nn.Module, test_sets: Sequence[DetectionDataset]) -> nn.Module:
    """What is scored on the test sets: the model, behind the views of TEST.BBOX_AUG."""
    if not test_sets:
        return model
    return build_test_time_augmentation(cfg, model, keypoint_flip=keypoint_flip_of(test_sets))


def make_ema(cfg: Config, model: nn.Module) -> ModelEMA | None:
    """The averaged weights, where SOLVER.EMA_DECAY asks for them."""
    if cfg.SOLVER.EMA_DECAY is None:
        return None
    return ModelEMA(model, cfg.SOLVER.EMA_DECAY, cfg.SOLVER.EMA_WARMUP_ITERS)

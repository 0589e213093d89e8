"""What a training is put together from: data sets, model, optimizer and what belongs to them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from detengine.checkpoint.checkpointer import DetectronCheckpointer
from detengine.config.load import replace
from detengine.config.schema import Config
from detengine.data.build import build_datasets, number_of_classes
from detengine.data.dataset import DetectionDataset
from detengine.engine.build import build_test_time_augmentation, keypoint_flip_of
from detengine.expectations import raise_if_not_measured
from detengine.modeling.build import build_detection_model
from detengine.monitor.timer import Stages
from detengine.solver.build import make_lr_scheduler, make_optimizer
from detengine.solver.ema import ModelEMA
from detengine.solver.precision import Precision

logger = logging.getLogger("detengine.run")


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

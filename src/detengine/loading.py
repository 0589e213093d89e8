"""A trained model, from whatever a user has of it: a run's folder, a checkpoint, a name."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from detengine.checkpoint import history
from detengine.checkpoint.catalog import find_source, find_weights
from detengine.checkpoint.checkpointer import DetectronCheckpointer
from detengine.checkpoint.published import TORCHVISION
from detengine.checkpoint.readers import read_file
from detengine.config.load import load_config, parse_config, replace
from detengine.config.published import config_of_torchvision
from detengine.config.schema import Config
from detengine.data.build import number_of_classes
from detengine.distributed.launch import resolve_device
from detengine.engine.predictor import Predictor
from detengine.modeling.build import build_detection_model
from detengine.output_folder import CONFIG, read_run_config


class LoadedModel(NamedTuple):
    """A model with its weights, on its device.

    class_names: of the labels 1..K; empty where nobody knows them. weights: where they are from.
    """

    cfg: Config
    model: nn.Module
    class_names: tuple[str, ...]
    weights: str


def load(
    run_or_weights: str | Path,
    *,
    device: str = "auto",
    config: str | Path | Config | None = None,
    class_names: Sequence[str] | None = None,
    best: bool = False,
    batch_size: int = 1,
) -> Predictor:
    """A Predictor, of a run, a checkpoint or a published name; all but batch_size as `load_model`.

    What it finds is what an evaluation of the same weights finds in batches of batch_size, boxes
    being continuous under any conventions. In a batch of several, images are padded to the largest,
    which moves the last digits.
    """
    loaded = load_model(
        run_or_weights, device=device, config=config, class_names=class_names, best=best
    )
    return Predictor(
        loaded.cfg,
        loaded.model,
        class_names=loaded.class_names,
        batch_size=batch_size,
        continuous_boxes=True,
    )


def load_model(
    run_or_weights: str | Path,
    *,
    device: str = "auto",
    config: str | Path | Config | None = None,
    class_names: Sequence[str] | None = None,
    best: bool = False,
) -> LoadedModel:
    """The model of a run, a checkpoint or a published name, with averaged weights if it has them.

    run_or_weights: a run's output folder, whose last checkpoint is taken, with best its
    model_best.pth; a checkpoint's file, which holds its configuration; a name or an address as
    `find_weights` takes it, for some of torchvision's (TORCHVISION_DETECTORS) without a
    configuration.
    device: as MODEL.DEVICE. config: the model's, a YAML file or a Config, needed by weights of
    other programs, and by a MODEL.BUILDER's, since no folder and no checkpoint says which code is
    run; it wins over that of a run or a checkpoint. class_names: of labels 1..K, for
    weights that do not name them.
    Raises FileNotFoundError where there is nothing, and ValueError, with the cure, for weights
    whose model is not known, or which do not fit the configuration.
    """
    place = Path(run_or_weights)
    if place.is_dir():
        weights = str(_checkpoint_of(place, best=best))
        cfg = _own(place) if config is None else _given(config)
        known: Sequence[str] = ()
    else:
        weights = str(run_or_weights)
        _raise_if_no_run(weights, best=best)
        cfg, known = _of_weights(weights, config)
    cfg = replace(cfg, {"MODEL.DEVICE": device})
    known = tuple(class_names or known)
    cfg = _with_num_classes(cfg, known, weights)
    if class_names is not None:
        _raise_if_number_differs(cfg, known)
    model = build_detection_model(cfg).to(resolve_device(device))
    entries = DetectronCheckpointer(cfg, model, class_names=class_names or ()).load(weights)
    found = entries["categories"] or known or cfg.DATASETS.CLASSES or ()
    return LoadedModel(cfg, model, tuple(found), weights)


def _checkpoint_of(folder: Path, *, best: bool) -> Path:
    """The checkpoint of a run's folder that is asked for."""
    found = next(history.candidates(folder), None)
    if not (folder / CONFIG).is_file():
        inside = f" Or give the checkpoint in it: {found}." if found else ""
        raise FileNotFoundError(
            f"{folder} holds no run: {CONFIG} is missing. Give the output folder of a training."
            f"{inside}"
        )
    if found is None:
        raise FileNotFoundError(
            f"the run in {folder} has no checkpoint yet: it holds no model_*.pth. Wait for its "
            "first (SOLVER.CHECKPOINT_PERIOD), or give another run."
        )
    if not best:
        return found
    if not (folder / f"{history.BEST}.pth").is_file():
        raise FileNotFoundError(
            f"the run in {folder} kept no {history.BEST}.pth, which takes a SOLVER.BEST_METRIC in "
            "training. Leave best out to take its last checkpoint."
        )
    return folder / f"{history.BEST}.pth"


def _raise_if_no_run(weights: str, *, best: bool) -> None:
    """What is no folder must be a file or a name, and has no best checkpoint."""
    if best:
        raise ValueError(
            f"best chooses among a run's checkpoints, but {weights} is no folder: leave it out"
        )
    if find_source(weights) is None and not Path(weights).is_file():
        raise FileNotFoundError(
            f"there is nothing at {weights}. Expected a run's output folder, a checkpoint's file, "
            f"or the name of published weights, such as {TORCHVISION}maskrcnn_resnet50_fpn_v2."
        )


def _own(folder: Path) -> Config:
    """The configuration of a run's folder, which may be of anybody, and so names no code."""
    cfg = read_run_config(folder)
    if cfg.MODEL.BUILDER is not None:
        raise ValueError(
            f"the run in {folder} is of a model that code of its own built (MODEL.BUILDER: "
            f"{cfg.MODEL.BUILDER}), and no folder says which code is run. Where you trust it, give "
            f"its configuration yourself: load(..., config='{folder / CONFIG}'), or on the command "
            f"line --config-file {shlex.quote(str(folder / CONFIG))}."
        )
    return cfg


def _given(config: str | Path | Config) -> Config:
    return config if isinstance(config, Config) else load_config(config)


def _of_weights(weights: str, config: str | Path | Config | None) -> tuple[Config, Sequence[str]]:
    """The configuration of weights that are no run's folder, and the class names they tell."""
    source = find_source(weights)
    published = None if source is None else source.class_names
    if config is None and source is not None and weights.startswith(TORCHVISION):
        if not published:
            raise ValueError(
                f"{weights} are the weights of a backbone, which detects nothing by itself. Give a "
                "detector's, or start a training from them (MODEL.WEIGHT)."
            )
        name = weights.removeprefix(TORCHVISION).partition("/")[0]
        return config_of_torchvision(name), published
    entries = read_file(find_weights(weights))
    names = entries.get("categories") or published or ()
    if config is not None:
        return _given(config), names
    if not entries.get("config"):
        raise ValueError(
            f"{weights} does not say what model it is of, as checkpoints of detengine's runs do. "
            "Give the model's configuration too: load(..., config='FILE.yaml'), or on the command "
            "line --config-file FILE.yaml."
        )
    cfg = parse_config(entries["config"], source=weights)
    if cfg.MODEL.BUILDER is not None:
        raise ValueError(
            f"{weights} is of a model that code of its own built (MODEL.BUILDER: "
            f"{cfg.MODEL.BUILDER}), and no checkpoint says which code is run. Give the "
            "configuration that names it, if you trust it: load(..., config='FILE.yaml'), or on "
            "the command line --config-file FILE.yaml."
        )
    return cfg, names


def _with_num_classes(cfg: Config, class_names: Sequence[str], weights: str) -> Config:
    """The configuration, the number of classes taken from their names if it is not set."""
    key, given = number_of_classes(cfg)
    has_none = cfg.MODEL.RPN_ONLY and not cfg.MODEL.RETINANET_ON
    if given is not None or has_none or (cfg.MODEL.BUILDER is not None and not class_names):
        return cfg
    if not class_names:
        raise ValueError(
            f"neither {weights} nor the configuration says how many classes there are: set {key}, "
            "the background included, or give the classes' names: load(..., class_names=[...])"
        )
    return replace(cfg, {key: len(class_names) + 1})


def _raise_if_number_differs(cfg: Config, class_names: Sequence[str]) -> None:
    key, given = number_of_classes(cfg)
    if given is not None and given != len(class_names) + 1:
        raise ValueError(
            f"{len(class_names)} class names were given, but {key} is {given}, background "
            f"included; expected {given - 1}, of the labels 1 to {given - 1} in their order"
        )

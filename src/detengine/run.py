"""Where everything is put together: train, evaluate, and load a run."""

import functools
import logging
import os
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detengine.checkpoint.checkpointer import DetectronCheckpointer
from detengine.checkpoint.files import load_file
from detengine.config.load import load_config, replace, to_yaml
from detengine.config.schema import Config
from detengine.data.build import build_datasets, make_data_loader, number_of_classes
from detengine.data.dataset import DetectionDataset
from detengine.distributed.comm import get_world_size, is_main_process, synchronize
from detengine.distributed.launch import resolve_device, start_distributed
from detengine.engine.build import build_test_time_augmentation
from detengine.engine.inference import inference
from detengine.engine.predictor import Predictor
from detengine.engine.stopping import stop_on_signals
from detengine.engine.trainer import do_train
from detengine.evaluation.expected import check_expected_results
from detengine.evaluation.predictions_file import load_predictions
from detengine.evaluation.result import EvaluationResult
from detengine.modeling.build import build_detection_model
from detengine.monitor.logs import logging_to
from detengine.monitor.progress import track
from detengine.monitor.sinks import JsonlSink
from detengine.report.pictures import write_pictures
from detengine.solver.build import make_lr_scheduler, make_optimizer
from detengine.solver.ema import ModelEMA
from detengine.solver.precision import Precision

logger = logging.getLogger("detengine.run")

Results = dict[str, EvaluationResult]
"""By the name of the test set."""

PERSON_KEYPOINTS = 17
"""How many keypoints COCO's object keypoint similarity has tolerances for."""


@dataclass(frozen=True)
class RunResult:
    """A trained model with what it scored.

    results: by test set; empty where nothing was scored. finished: False if the run was stopped on
    request, and can be resumed.
    """

    model: nn.Module
    results: Results
    output_folder: Path
    finished: bool


def train(cfg: Config, *, resume: bool = False, skip_test: bool = False) -> RunResult:
    """Train on DATASETS.TRAIN and score on DATASETS.TEST; called by all ranks.

    Everything is written to OUTPUT_DIR. resume: go on with the run that is there; where there is
    none, one is started, and that is said. skip_test: score nothing, neither on the way nor at the
    end. Raises FileExistsError if the folder holds a run and resume is False; ValueError or OSError
    for what is amiss with configuration, data or folder; NonFiniteError; ExpectedResultsError.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name at least one data set to train on")
    device = start_distributed(cfg.MODEL.DEVICE)
    folder = prepare_output_folder(cfg.OUTPUT_DIR, resume=resume)
    with logging_to(folder):
        return _train(cfg, folder, device, resume=resume, skip_test=skip_test)


def _train(
    cfg: Config, folder: Path, device: torch.device, *, resume: bool, skip_test: bool
) -> RunResult:
    datasets = build_datasets(cfg, cfg.DATASETS.TRAIN)
    class_names = datasets[0].class_names
    is_scored = not skip_test and can_be_scored(cfg)
    test_sets = build_datasets(cfg, cfg.DATASETS.TEST if is_scored else (), class_names)
    cfg = with_num_classes(cfg, class_names)
    torch.manual_seed(cfg.SEED)
    model = build_detection_model(cfg).to(device)
    scored = build_test_time_augmentation(cfg, model) if test_sets else model
    optimizer = make_optimizer(cfg, model)
    scheduler = make_lr_scheduler(cfg, optimizer)
    precision, ema = Precision(cfg.DTYPE), make_ema(cfg, model)
    checkpointer = DetectronCheckpointer(
        cfg, model, optimizer, scheduler, folder,
        precision=precision, ema=ema, class_names=class_names,
    )  # fmt: skip
    arguments = start_or_resume(cfg, checkpointer, resume=resume)
    start_iter = arguments["iteration"]
    write_config(cfg, folder)
    loader = make_data_loader(cfg, True, is_distributed(), start_iter, datasets=datasets)

    @functools.cache
    def scores_after(iteration: int) -> Results:
        with nullcontext() if ema is None else ema.applied():
            return score(cfg, scored, test_sets, folder, device)

    with stop_on_signals() as should_stop, closing(JsonlSink(folder / "metrics.jsonl")) as sink:
        do_train(
            distribute(model, device),
            track(loader, "training", cfg.SOLVER.MAX_ITER, start_iter),
            optimizer,
            scheduler,
            checkpointer,
            device,
            cfg.SOLVER.CHECKPOINT_PERIOD,
            arguments,
            precision=precision,
            ema=ema,
            accumulate=cfg.SOLVER.ACCUMULATE,
            clip_norm=cfg.SOLVER.CLIP_NORM,
            seed=cfg.SEED,
            log_period=cfg.SOLVER.LOG_PERIOD,
            sinks=[sink] if is_main_process() else [],
            evaluate=(lambda: flat(scores_after(arguments["iteration"]))) if test_sets else None,
            eval_period=cfg.SOLVER.TEST_PERIOD,
            should_stop=None if is_distributed() else should_stop,
            on_nonfinite=cfg.SOLVER.ON_NONFINITE,
        )
        finished = arguments["iteration"] == cfg.SOLVER.MAX_ITER
        results = scores_after(cfg.SOLVER.MAX_ITER) if finished and test_sets else {}
    check_expectations(cfg, results)
    return RunResult(model, results, folder, finished)


def evaluate(cfg: Config, weights: str | Path) -> Results:
    """Score a checkpoint on DATASETS.TEST; called by all ranks.

    Its averaged weights (EMA) are taken where it has them, its class names, and nothing else.
    Results, predictions and pictures go to OUTPUT_DIR. Raises as `train` does.
    """
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: name at least one data set to score on")
    if gives_proposals(cfg):
        raise ValueError(
            "MODEL.RPN_ONLY is True: this model gives proposals without classes, and their recall "
            "is not measured yet. Score a model with a box head (MODEL.RPN_ONLY False)."
        )
    can_be_scored(cfg)
    device = start_distributed(cfg.MODEL.DEVICE)
    folder = make_output_folder(cfg.OUTPUT_DIR)
    with logging_to(folder):
        return _evaluate(cfg, Path(weights), folder, device)


def _evaluate(cfg: Config, weights: Path, folder: Path, device: torch.device) -> Results:
    class_names = load_file(weights).get("categories") or None
    test_sets = build_datasets(cfg, cfg.DATASETS.TEST, class_names)
    class_names = test_sets[0].class_names
    cfg = with_num_classes(cfg, class_names)
    model = build_detection_model(cfg).to(device)
    DetectronCheckpointer(cfg, model, class_names=class_names).load(weights)
    scored = build_test_time_augmentation(cfg, model)
    results = score(cfg, scored, test_sets, folder, device)
    check_expectations(cfg, results)
    return results


def load(run_folder: str | Path, *, device: str = "auto") -> Predictor:
    """A Predictor with a run's last weights. device: as MODEL.DEVICE.

    Raises FileNotFoundError if the folder holds no run.
    """
    folder = Path(run_folder)
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(
            f"{folder} holds no run: config.yaml is missing. Give the output folder of a training."
        )
    cfg = load_config(folder / "config.yaml", ["MODEL.DEVICE", device])
    model = build_detection_model(cfg).to(resolve_device(device))
    checkpointer = DetectronCheckpointer(cfg, model, save_dir=folder)
    entries = checkpointer.load(checkpointer.get_checkpoint_file())
    return Predictor(cfg, model, class_names=entries["categories"])


def score(
    cfg: Config,
    model: nn.Module,
    test_sets: Sequence[DetectionDataset],
    folder: Path,
    device: torch.device,
) -> Results:
    """Score the model on every test set, and write results, predictions and pictures; all ranks.

    model: as `build_test_time_augmentation` gives it.
    """
    loaders = make_data_loader(cfg, False, is_distributed(), datasets=test_sets)
    results = {}
    for dataset, loader in zip(test_sets, loaders, strict=True):
        predictions = make_output_folder(folder / "inference" / dataset.name)
        results[dataset.name] = inference(
            model,
            track(loader, f"scoring {dataset.name}"),
            dataset.name,
            iou_types_of(cfg),
            device=device,
            output_folder=predictions,
            inclusive_boxes=cfg.MODEL.ARITHMETIC.INCLUSIVE_PIXELS,
        )
        if is_main_process() and cfg.TEST.PICTURES:
            pictures = make_output_folder(folder / "pictures" / dataset.name)
            paths = write_pictures(
                dataset, load_predictions(predictions), pictures, cfg.TEST.PICTURES
            )
            logger.info("pictures, truth beside prediction: %s", paths[0])
    if is_main_process():
        write_results(results, folder)
    synchronize()
    return results


def can_be_scored(cfg: Config) -> bool:
    """Whether the model's predictions can be scored; what cannot is said, once, at the start."""
    test_sets = ", ".join(cfg.DATASETS.TEST)
    if gives_proposals(cfg) and test_sets:
        logger.warning(
            "MODEL.RPN_ONLY is True: %s will not be scored, because the recall of proposals is not "
            "measured yet",
            test_sets,
        )
    elif cfg.MODEL.KEYPOINT_ON and test_sets and "keypoints" not in iou_types_of(cfg):
        logger.warning(
            "MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES is %d: the keypoints of %s will not be scored, "
            "because COCO's tolerances are for the %d of a person; boxes and masks will",
            cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES,
            test_sets,
            PERSON_KEYPOINTS,
        )
    return not gives_proposals(cfg)


def gives_proposals(cfg: Config) -> bool:
    """Whether the model stops at proposals; RetinaNet, whose files say RPN_ONLY too, does not."""
    return cfg.MODEL.RPN_ONLY and not cfg.MODEL.RETINANET_ON


def iou_types_of(cfg: Config) -> tuple[str, ...]:
    """What the model's predictions are scored by."""
    has_tolerances = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES == PERSON_KEYPOINTS
    switched = {
        "segm": cfg.MODEL.MASK_ON,
        "keypoints": cfg.MODEL.KEYPOINT_ON and has_tolerances,
    }
    return ("bbox", *(iou_type for iou_type, is_on in switched.items() if is_on))


def check_expectations(cfg: Config, results: Results) -> None:
    """Hold the final results against TEST.EXPECTED_RESULTS, when all of them are written.

    Not on the way: early in a training nothing is as expected. Raises ExpectedResultsError.
    """
    for result in results.values():
        check_expected_results(
            result, cfg.TEST.EXPECTED_RESULTS, cfg.TEST.EXPECTED_RESULTS_SIGMA_TOL
        )


def flat(results: Results) -> dict[str, float]:
    """All results under their metric names, `val/<test set>/bbox/AP50`."""
    return {
        name: value
        for test_set, result in results.items()
        for name, value in result.flat(f"val/{test_set}").items()
    }


def with_num_classes(cfg: Config, class_names: Sequence[str]) -> Config:
    """The configuration, the number of classes taken from the data if it is not set."""
    key, given = number_of_classes(cfg)
    return cfg if given is not None else replace(cfg, {key: len(class_names) + 1})


def make_ema(cfg: Config, model: nn.Module) -> ModelEMA | None:
    """The averaged weights, where SOLVER.EMA_DECAY asks for them."""
    if cfg.SOLVER.EMA_DECAY is None:
        return None
    return ModelEMA(model, cfg.SOLVER.EMA_DECAY, cfg.SOLVER.EMA_WARMUP_ITERS)


def start_or_resume(
    cfg: Config, checkpointer: DetectronCheckpointer, *, resume: bool
) -> dict[str, Any]:
    """Load what is asked for: the folder's own run, or MODEL.WEIGHT as a beginning.

    Returns do_train's arguments.
    """
    if resume and checkpointer.has_checkpoint():
        return checkpointer.resume()
    if resume:
        logger.warning("there is no run in %s to resume; a new one starts", checkpointer.save_dir)
    if cfg.MODEL.WEIGHT:
        checkpointer.load(cfg.MODEL.WEIGHT, strict=False)
    return {"iteration": 0, "seed": cfg.SEED}


def distribute(model: nn.Module, device: torch.device) -> nn.Module:
    """The model as all ranks train it together; in a single process the model itself."""
    if not is_distributed():
        return model
    return DistributedDataParallel(model, device_ids=None if device.type == "cpu" else [device])


def is_distributed() -> bool:
    return get_world_size() > 1


def prepare_output_folder(path: str | Path, *, resume: bool) -> Path:
    """The run's folder, made if need be.

    Raises FileExistsError if it holds a run that is not to be resumed.
    """
    folder = make_output_folder(path)
    synchronize()
    if not resume and (folder / "last_checkpoint").exists():
        raise FileExistsError(
            f"{folder} holds a run already (last_checkpoint). Add --resume to go on with it, or "
            "name another folder by --output-dir (OUTPUT_DIR)."
        )
    return folder


def make_output_folder(path: str | Path) -> Path:
    """The folder, made if need be. Raises OSError, with the cure, where it cannot be written to."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise type(error)(
            f"the output folder {folder} cannot be made: {error.strerror}. "
            "Name another by --output-dir (OUTPUT_DIR)."
        ) from error
    if not writable:
        raise PermissionError(
            f"the output folder {folder} cannot be written to. "
            "Name another by --output-dir (OUTPUT_DIR)."
        )
    return folder


def write_config(cfg: Config, folder: Path) -> None:
    """The run's resolved configuration, `config.yaml`; rank 0."""
    if is_main_process():
        (folder / "config.yaml").write_text(to_yaml(cfg), encoding="utf-8")


def write_results(results: Results, folder: Path) -> None:
    """`results.json`: {test set: {"bbox": {"AP": fraction, ...}}}."""
    plain = {test_set: result.to_json() for test_set, result in results.items()}
    (folder / "results.json").write_bytes(orjson.dumps(plain, option=orjson.OPT_INDENT_2) + b"\n")

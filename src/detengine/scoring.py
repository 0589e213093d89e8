"""Scoring a model on test sets: predictions, results and pictures in the run's folder."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson
import torch
from torch import nn

from detengine.config.schema import Config
from detengine.data.build import make_data_loader
from detengine.data.dataset import DetectionDataset
from detengine.data.workers import naming_dead_workers
from detengine.distributed.comm import is_distributed, is_main_process, synchronize
from detengine.distributed.watchdog import Watchdog
from detengine.engine.inference import inference
from detengine.evaluation.coco_metrics import METRICS
from detengine.evaluation.expected import check_expected_results
from detengine.evaluation.predictions_file import load_predictions
from detengine.evaluation.result import EvaluationResult
from detengine.monitor.progress import track
from detengine.output_folder import make_output_folder
from detengine.report.pictures import write_pictures

logger = logging.getLogger("detengine.scoring")

Results = dict[str, EvaluationResult]
"""By the name of the test set."""

PERSON_KEYPOINTS = 17
"""How many keypoints COCO's object keypoint similarity has tolerances for."""


def score(
    cfg: Config,
    model: nn.Module,
    test_sets: Sequence[DetectionDataset],
    folder: Path,
    device: torch.device,
    watchdog: Watchdog,
    *,
    should_stop: Callable[[], bool] | None = None,
) -> Results:
    """Score the model on every test set, and write results, predictions and pictures; all ranks.

    model: as `build_test_time_augmentation` gives it. Raises StopRequestedError, as `inference`.
    """
    loaders = make_data_loader(cfg, False, is_distributed(), datasets=test_sets)
    results = {}
    for dataset, loader in zip(test_sets, loaders, strict=True):
        predictions = make_output_folder(folder / "inference" / dataset.name)
        with naming_dead_workers(loader):
            results[dataset.name] = inference(
                model,
                watchdog.batches(track(loader, f"scoring {dataset.name}")),
                dataset.name,
                iou_types_of(cfg),
                device=device,
                output_folder=predictions,
                inclusive_boxes=cfg.MODEL.ARITHMETIC.INCLUSIVE_PIXELS,
                on_wrong_images=cfg.TEST.ON_WRONG_IMAGES,
                should_stop=should_stop,
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
    """Whether the model's predictions can be scored; what cannot is said, once, at the start.

    Raises ValueError for expected results, or a best metric, of what is not measured: before the
    training, not after.
    """
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
    if not gives_proposals(cfg):
        for task, metric, _ in cfg.TEST.EXPECTED_RESULTS:
            _raise_if_not_measured(cfg, "TEST.EXPECTED_RESULTS", task, metric)
        if cfg.SOLVER.BEST_METRIC is not None:
            task, slash, metric = cfg.SOLVER.BEST_METRIC.partition("/")
            if not slash:
                raise ValueError(
                    f"SOLVER.BEST_METRIC is {cfg.SOLVER.BEST_METRIC!r}; expected task/metric, such "
                    "as bbox/AP"
                )
            _raise_if_not_measured(cfg, "SOLVER.BEST_METRIC", task, metric)
    return not gives_proposals(cfg)


def _raise_if_not_measured(cfg: Config, key: str, task: str, metric: str) -> None:
    measured = {iou_type: METRICS[iou_type] for iou_type in iou_types_of(cfg)}
    if metric not in measured.get(task, {}):
        known = measured.get(task, measured)
        raise ValueError(
            f"{key} expects {metric!r} of {task!r}, but this model is scored "
            f"by the {'metrics' if task in measured else 'tasks'} {', '.join(known)}; "
            "correct it, or switch on what it is about (MODEL.MASK_ON, MODEL.KEYPOINT_ON)"
        )


def best_metric_of(cfg: Config) -> str | None:
    """The full name of SOLVER.BEST_METRIC, which is of the first of DATASETS.TEST."""
    if cfg.SOLVER.BEST_METRIC is None or not cfg.DATASETS.TEST:
        return None
    return f"val/{cfg.DATASETS.TEST[0]}/{cfg.SOLVER.BEST_METRIC}"


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


def write_results(results: Results, folder: Path) -> None:
    """`results.json`: {test set: {"bbox": {"AP": fraction, ...}}}."""
    plain = {test_set: result.to_json() for test_set, result in results.items()}
    (folder / "results.json").write_bytes(orjson.dumps(plain, option=orjson.OPT_INDENT_2) + b"\n")

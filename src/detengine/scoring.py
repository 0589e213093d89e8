"""Scoring a model on test sets: predictions, results and pictures in the run's folder."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import orjson
import torch
from torch import nn

from detengine.config.schema import Config
from detengine.data.build import make_evaluation_loader
from detengine.data.dataset import DetectionDataset
from detengine.data.workers import naming_dead_workers
from detengine.distributed.comm import (
    broadcast,
    get_rank,
    get_world_size,
    is_main_process,
    synchronize,
)
from detengine.distributed.watchdog import Watchdog
from detengine.engine.inference import inference
from detengine.evaluation.build import (
    PERSON_KEYPOINTS,
    build_scoring_options,
    gives_proposals,
    iou_types_of,
    tasks_of_test_set,
)
from detengine.evaluation.expected import (
    ExpectedResult,
    ExpectedResultsError,
    missed_expectations,
)
from detengine.evaluation.predictions_file import (
    load_predictions,
    remove_predictions,
    stored_image_ids,
)
from detengine.evaluation.result import EvaluationResult
from detengine.monitor.progress import track
from detengine.output_folder import make_output_folder
from detengine.report.pictures import write_pictures

logger = logging.getLogger("detengine.scoring")

Results = dict[str, EvaluationResult]
"""By the name of the test set."""


def score(
    cfg: Config,
    model: nn.Module,
    test_sets: Sequence[DetectionDataset],
    folder: Path,
    device: torch.device,
    watchdog: Watchdog,
    *,
    should_stop: Callable[[], bool] | None = None,
    resume: bool = False,
) -> Results:
    """Score the model on every test set, and write results, predictions and pictures; all ranks.

    model: as `build_test_time_augmentation` gives it. resume: what an interrupted scoring of the
    same weights has predicted is not predicted again. Raises StopRequestedError, as `inference`.
    """
    results = {}
    for dataset in test_sets:
        predictions = make_output_folder(folder / "inference" / dataset.name)
        origin = broadcast(origin_of(cfg, model, dataset))
        done = begin_predictions(predictions, origin, resume=resume)
        rank, ranks = get_rank(), get_world_size()
        stored = load_predictions(predictions, share=(rank, ranks)) if done else iter(())
        synchronize()  # every rank knows the files of before, now new ones may come
        loader = make_evaluation_loader(cfg, dataset, rank=rank, world_size=ranks, without=done)
        with naming_dead_workers(loader):
            results[dataset.name] = inference(
                model,
                watchdog.batches(track(loader, f"scoring {dataset.name}")),
                dataset.name,
                iou_types_of(cfg),
                gives_proposals(cfg),
                device=device,
                options=build_scoring_options(cfg, dataset.name),
                stored=stored,
                origin=origin,
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


def origin_of(cfg: Config, model: nn.Module, dataset: DetectionDataset) -> str:
    """The sha256 of all that predictions depend on: weights, model, images' sizes, annotations."""
    digest = hashlib.sha256()
    model_keys = cfg.MODEL.model_dump(exclude={"DEVICE", "WEIGHT"})
    views = cfg.TEST.BBOX_AUG.model_dump()
    divisibility, limit = cfg.DATALOADER.SIZE_DIVISIBILITY, cfg.TEST.DETECTIONS_PER_IMG
    for part in (model_keys, cfg.INPUT.model_dump(), cfg.DTYPE, views, divisibility, limit):
        digest.update(repr(part).encode())
    digest.update(dataset.ground_truth().digest().encode())
    digest.update(repr(tuple(dataset.class_names)).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def begin_predictions(folder: Path, origin: str, *, resume: bool) -> list[int]:
    """The ids of the images whose predictions are gone on with; others' are removed. All ranks."""
    done: list[int] = []
    if is_main_process():
        found = stored_image_ids(folder, origin) if resume else None
        if found is None:
            remove_predictions(folder)
        else:
            done = found
            logger.info("%d images are predicted already in %s", len(done), folder)
    return broadcast(done)


def raise_if_not_measured(cfg: Config) -> None:
    """Raise ValueError for expected results, or a best metric, of what will not be measured.

    Before the training, not after. Keypoints that cannot be scored are said, once.
    """
    measured = {name: tasks_of_test_set(cfg, name) for name in cfg.DATASETS.TEST}
    if cfg.MODEL.KEYPOINT_ON and measured and "keypoints" not in iou_types_of(cfg):
        logger.warning(
            "MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES is %d: the keypoints of %s will not be scored, "
            "because COCO's tolerances are for the %d of a person; give yours as "
            "TEST.KEYPOINT_SIGMAS. Boxes and masks will be scored.",
            cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES,
            ", ".join(measured),
            PERSON_KEYPOINTS,
        )
    for name, tasks in measured.items():
        for task, metric, _ in _expected_of(cfg, name):
            _raise_if_absent(tasks, "TEST.EXPECTED_RESULTS", task, metric)
    if measured and cfg.SOLVER.BEST_METRIC is not None:
        task, slash, metric = cfg.SOLVER.BEST_METRIC.partition("/")
        if not slash:
            raise ValueError(
                f"SOLVER.BEST_METRIC is {cfg.SOLVER.BEST_METRIC!r}; expected task/metric, such "
                "as bbox/AP"
            )
        tasks = measured[cfg.DATASETS.TEST[0]]
        _raise_if_absent(tasks, "SOLVER.BEST_METRIC", task, metric)


def _expected_of(cfg: Config, test_set: str) -> list[ExpectedResult]:
    """The expected results of one test set, their tasks without its name."""
    found = []
    for task, metric, value in cfg.TEST.EXPECTED_RESULTS:
        name, slash, own_task = task.rpartition("/")
        if slash and name not in cfg.DATASETS.TEST:
            raise ValueError(
                f"TEST.EXPECTED_RESULTS expects {metric!r} of {task!r}, but {name!r} is none of "
                f"DATASETS.TEST: {', '.join(cfg.DATASETS.TEST)}"
            )
        if not slash or name == test_set:
            found.append((own_task, metric, value))
    return found


def _raise_if_absent(
    measured: Mapping[str, Sequence[str]], key: str, task: str, metric: str
) -> None:
    if metric not in measured.get(task, ()):
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


def check_expectations(cfg: Config, results: Results) -> None:
    """Hold the final results against TEST.EXPECTED_RESULTS, when all of them are written.

    Not on the way: early in a training nothing is as expected. Raises ExpectedResultsError, with
    what was missed on any test set.
    """
    missed, checked = [], 0
    for test_set, result in results.items():
        expected = _expected_of(cfg, test_set)
        failures = missed_expectations(result, expected, cfg.TEST.EXPECTED_RESULTS_SIGMA_TOL)
        checked += len(expected)
        missed += [f"{test_set}: {failure}" for failure in failures]
    if missed:
        raise ExpectedResultsError(
            f"{len(missed)} of {checked} expected results were missed:\n" + "\n".join(missed)
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

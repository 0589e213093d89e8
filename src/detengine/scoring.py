"""Scoring a model on test sets: predictions, results and pictures in the run's folder."""

import hashlib
import logging
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import torch
from torch import Tensor, nn

from detengine.config.schema import Config
from detengine.data.build import make_evaluation_loader, make_loss_loader
from detengine.data.dataset import DetectionDataset
from detengine.data.workers import naming_dead_workers
from detengine.disk.writing import write_bytes
from detengine.distributed.comm import (
    broadcast,
    get_rank,
    get_world_size,
    is_main_process,
    synchronize,
)
from detengine.distributed.watchdog import Watchdog
from detengine.engine.inference import inference
from detengine.engine.tta import TestTimeAugmentation
from detengine.engine.validation_loss import validation_loss
from detengine.evaluation.build import build_scoring_options, gives_proposals, iou_types_of
from detengine.evaluation.coco_results import remove_coco_results
from detengine.evaluation.predictions_file import (
    load_predictions,
    remove_leftovers,
    remove_predictions,
    stored_image_ids,
)
from detengine.evaluation.result import LOSS, EvaluationResult, Metrics
from detengine.monitor.progress import track
from detengine.monitor.sinks import Sink, plain_number
from detengine.output_folder import make_output_folder
from detengine.report.pictures import write_pictures

logger = logging.getLogger("detengine.scoring")

Results = dict[str, EvaluationResult]
"""By the name of the test set."""

RESULTS, PER_CLASS = "results.json", "per_class.json"
INFERENCE, PICTURES = "inference", "pictures"
"""Folders, with one in them for each test set."""


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
    weights = digest_of_weights(model) if is_main_process() else ""
    results = {}
    for dataset in test_sets:
        predictions = make_output_folder(folder / INFERENCE / dataset.name, within=folder)
        origin = broadcast(origin_of(cfg, weights, dataset) if is_main_process() else "")
        result = score_test_set(
            cfg, model, dataset, predictions, device, watchdog,
            origin=origin, should_stop=should_stop, resume=resume,
        )  # fmt: skip
        if is_main_process() and cfg.TEST.PICTURES:
            pictures = make_output_folder(folder / PICTURES / dataset.name, within=folder)
            draw_pictures(cfg, dataset, predictions, pictures)
        if cfg.TEST.LOSS:
            losses = measure_losses(cfg, model, dataset, device, watchdog, should_stop=should_stop)
            result = replace(result, metrics={**result.metrics, LOSS: losses})
        results[dataset.name] = result
    if is_main_process():
        write_results(results, folder)
    synchronize()
    return results


def score_test_set(
    cfg: Config,
    model: nn.Module,
    dataset: DetectionDataset,
    folder: Path,
    device: torch.device,
    watchdog: Watchdog,
    *,
    origin: str,
    should_stop: Callable[[], bool] | None,
    resume: bool,
) -> EvaluationResult:
    """One test set's scores; called by all ranks.

    folder: of its predictions, which are marked with the origin. resume: as in `score`.
    """
    rank, ranks = get_rank(), get_world_size()
    done = begin_predictions(folder, origin, resume=resume)
    stored = load_predictions(folder, share=(rank, ranks)) if done else iter(())
    synchronize()  # every rank knows the files of before, now new ones may come
    loader = make_evaluation_loader(cfg, dataset, rank=rank, world_size=ranks, without=done)
    with naming_dead_workers(loader):
        return inference(
            model,
            watchdog.batches(track(loader, f"scoring {dataset.name}")),
            dataset.name,
            iou_types_of(cfg),
            gives_proposals(cfg),
            device=device,
            options=build_scoring_options(cfg, dataset.name),
            stored=stored,
            origin=origin,
            output_folder=folder,
            inclusive_boxes=cfg.MODEL.ARITHMETIC.INCLUSIVE_PIXELS,
            on_wrong_images=cfg.TEST.ON_WRONG_IMAGES,
            should_stop=should_stop,
        )


def draw_pictures(cfg: Config, dataset: DetectionDataset, predictions: Path, folder: Path) -> None:
    """TEST.PICTURES pictures of truth beside prediction, into the folder."""
    pairs = load_predictions(predictions)
    paths = write_pictures(dataset, pairs, folder, cfg.TEST.PICTURES)
    logger.info("pictures, truth beside prediction: %s", paths[0])


def send_pictures(
    cfg: Config, folder: Path, arguments: Mapping[str, Any], sinks: Sequence[Sink]
) -> None:
    """What `draw_pictures` drew of the test sets, to a training's sinks, as `<test set>/<image>`.

    arguments: do_train's; of an evaluation whose metrics the sinks have, they have the pictures.
    """
    iteration = arguments["iteration"]
    if not cfg.TEST.PICTURES or arguments.get("scored") == iteration:
        return
    pictures = {
        f"{name}/{path.stem}": path
        for name in cfg.DATASETS.TEST
        for path in sorted((folder / PICTURES / name).glob("*.png"))
    }
    for sink in sinks:
        if pictures:
            sink.write_pictures(iteration, pictures)


def measure_losses(
    cfg: Config,
    model: nn.Module,
    dataset: DetectionDataset,
    device: torch.device,
    watchdog: Watchdog,
    *,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, float]:
    """The model's losses on a test set, in single views, which are logged; all ranks.

    Raises StopRequestedError, as `validation_loss`.
    """
    detector = model.model if isinstance(model, TestTimeAugmentation) else model
    loader = make_loss_loader(cfg, dataset, rank=get_rank(), world_size=get_world_size())
    with naming_dead_workers(loader):
        batches = watchdog.batches(track(loader, f"losses on {dataset.name}"))
        losses = validation_loss(detector, batches, device, should_stop=should_stop)
    table = EvaluationResult({LOSS: losses}, {}, len(dataset)).table()
    logger.info("%s, %d images\n%s", dataset.name, len(dataset), table)
    return losses


def origin_of(cfg: Config, weights: str, dataset: DetectionDataset) -> str:
    """The sha256 of all that predictions depend on: weights, model, images' sizes, annotations.

    weights: as `digest_of_weights` gives it. Not of the images' pixels, of a BUILDER's code, or of
    which images share a batch.
    """
    model_keys = cfg.MODEL.model_dump(exclude={"DEVICE", "WEIGHT"})
    views = cfg.TEST.BBOX_AUG.model_dump()
    divisibility, limit = cfg.DATALOADER.SIZE_DIVISIBILITY, cfg.TEST.DETECTIONS_PER_IMG
    parts = (model_keys, cfg.INPUT.model_dump(), cfg.DTYPE, views, divisibility, limit)
    data = (dataset.ground_truth().digest(), tuple(dataset.class_names))
    return hashlib.sha256(repr((weights, parts, data)).encode()).hexdigest()


def digest_of_weights(model: nn.Module) -> str:
    """The sha256 of a model's whole state, buffers and extra state included."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}{list(value.shape)}".encode())
            digest.update(_bytes_of(value))
        else:  # a module's extra state, which may be anything
            digest.update(pickle.dumps(value))
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def begin_predictions(folder: Path, origin: str, *, resume: bool) -> list[int]:
    """The ids of the images whose predictions are gone on with; others' are removed. All ranks."""
    done: list[int] = []
    if is_main_process():
        remove_leftovers(folder)
        found = stored_image_ids(folder, origin) if resume else None
        if found is None:
            remove_coco_results(folder)
            if remove_predictions(folder) and resume:
                logger.warning(
                    "the predictions in %s were of other weights, another model or other data: "
                    "there was nothing to resume, and they were removed",
                    folder,
                )
        else:
            done = found
            logger.info("%d images are predicted already in %s", len(done), folder)
    return broadcast(done)


def flat(results: Results) -> dict[str, float]:
    """All results under their metric names, `val/<test set>/bbox/AP50`."""
    return {
        name: value
        for test_set, result in results.items()
        for name, value in result.flat(f"val/{test_set}").items()
    }


def write_results(results: Results, folder: Path) -> None:
    """`results.json`: {test set: {"bbox": {"AP": fraction, ...}}}; "nan" as in `metrics.jsonl`.

    And `per_class.json`, {test set: {"bbox": {class: AP}}}.
    """
    _write_plain(folder / RESULTS, {name: each.to_json() for name, each in results.items()})
    _write_plain(folder / PER_CLASS, {name: each.per_class for name, each in results.items()})


def _write_plain(path: Path, results: Mapping[str, Metrics]) -> None:
    plain = {
        test_set: {
            task: {name: plain_number(value) for name, value in metrics.items()}
            for task, metrics in of_set.items()
        }
        for test_set, of_set in results.items()
    }
    write_bytes(path, orjson.dumps(plain, option=orjson.OPT_INDENT_2) + b"\n")

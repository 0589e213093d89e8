"""The loop that runs a detector over a data set, and scores it."""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from detengine.distributed.comm import (
    all_gather,
    broadcast,
    gather_bytes,
    get_rank,
    get_world_size,
    is_main_process,
    synchronize,
)
from detengine.engine.model_mode import model_mode
from detengine.engine.prefetch import batches_on, work_beside
from detengine.engine.stopping import StopAgreement, StopRequestedError
from detengine.evaluation.coco_results import remove_coco_results, write_coco_results
from detengine.evaluation.evaluator import Evaluator
from detengine.evaluation.expected import ExpectedResult, check_expected_results
from detengine.evaluation.image_tally import OnWrongImages
from detengine.evaluation.options import ScoringOptions
from detengine.evaluation.predictions_file import PredictionWriter, remove_predictions
from detengine.evaluation.result import EvaluationResult
from detengine.monitor.timer import Timer, get_time_str
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.prediction import Prediction

logger = logging.getLogger("detengine.inference")


class EvaluationDataset(Protocol):
    """What scoring asks of a data set. `len()` counts the images of all ranks."""

    class_names: Sequence[str]

    def __len__(self) -> int: ...
    def ground_truth(self) -> GroundTruth: ...


class EvaluationLoader(Protocol):
    """What `inference` reads: batches whose targets carry `image_size` and `original_size`."""

    @property
    def dataset(self) -> Any: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[tuple[Any, Any, Any]]: ...


def inference(
    model: nn.Module,
    data_loader: EvaluationLoader,
    dataset_name: str,
    iou_types: Sequence[str] = ("bbox",),
    box_only: bool = False,
    device: torch.device | str = "cuda",
    expected_results: Sequence[ExpectedResult] = (),
    expected_results_sigma_tol: float = 4,
    output_folder: str | Path | None = None,
    *,
    options: ScoringOptions | None = None,
    stored: Iterable[tuple[int, Prediction]] | None = None,
    origin: str = "",
    inclusive_boxes: bool = False,
    on_wrong_images: OnWrongImages = "error",
    should_stop: Callable[[], bool] | None = None,
) -> EvaluationResult:
    """Run the model over a data set, score it, and give the result; called by all ranks.

    Each rank scores its own images as they come and keeps the matches only. output_folder: where
    the predictions are stored as they come, and COCO's result files of them in the end; None keeps
    nothing. What is stored there from before is removed, unless `stored` is given: this rank's
    share of it, which is scored as it is; the loader has the other images. origin: what it is
    predicted from, kept in the files (see predictions_file.stored_image_ids).
    box_only: the model gives proposals, whose recall is measured. options: by which metrics
    detections are scored, and how; None for COCO's.
    inclusive_boxes: the model's boxes name their last pixel; they are scored and stored as
    continuous ones, which end behind it.
    on_wrong_images: what an image is that was not predicted, or twice, or is none of the data
    set's: an error on all ranks, or with "warn" a warning (see Evaluator).
    should_stop: asked after each batch; True on any rank gives the work up on all of them.
    Raises ExpectedResultsError if an expected result is missed, ValueError for wrong images and
    predictions, and StopRequestedError.
    """
    options = options or ScoringOptions()
    if box_only:
        iou_types, options = ("bbox",), replace(options, metrics=("proposals",))
    device = torch.device(device)
    dataset: EvaluationDataset = data_loader.dataset
    logger.info("Start evaluation on %s dataset(%d images).", dataset_name, len(dataset))
    evaluator = Evaluator(
        dataset.ground_truth(),
        dataset.class_names,
        iou_types,
        options=options,
        on_wrong_images=on_wrong_images,
    )
    total_timer, model_timer = Timer(), Timer()
    total_timer.tic()
    if output_folder is not None and stored is None:
        start_anew(output_folder)
    for image_id, prediction in stored or ():
        evaluator.update(image_id, prediction)
    with prediction_writer(output_folder, dataset.class_names, origin) as writer:
        predict_and_score(
            model, data_loader, device, evaluator, writer,
            inclusive_boxes=inclusive_boxes, timer=model_timer, should_stop=should_stop,
        )  # fmt: skip
    synchronize()
    total_timer.toc()
    log_time("Total run time", total_timer, len(dataset))
    log_time("Model inference time", model_timer, len(dataset))
    result = accumulate_predictions(evaluator)
    if output_folder is not None and not box_only and is_main_process():
        write_coco_results(
            Path(output_folder), dataset.ground_truth().categories, dataset.class_names, iou_types
        )
    logger.info("%s\n%s", dataset_name, result.table())
    check_expected_results(result, expected_results, expected_results_sigma_tol)
    return result


def predict_and_score(
    model: nn.Module,
    data_loader: EvaluationLoader,
    device: torch.device,
    evaluator: Evaluator,
    writer: PredictionWriter | None,
    *,
    inclusive_boxes: bool,
    timer: Timer,
    should_stop: Callable[[], bool] | None,
) -> None:
    """Each image through the model, to the evaluator and to the writer, where there is one.

    Masks are encoded and matched, and files written, beside the device that computes the next.
    """

    def take(prediction: Prediction, image_id: int) -> None:
        if evaluator.update(image_id, prediction) and writer is not None:
            writer.add(image_id, prediction)

    with work_beside(device) as submit:
        end_batch = None if writer is None else partial(submit, writer.end_batch)
        predictions = compute_on_dataset(
            model, data_loader, device, timer=timer, should_stop=should_stop, after_batch=end_batch
        )
        with closing(predictions):
            for image_id, prediction in predictions:
                encode = prediction.opened if inclusive_boxes else prediction.encoded
                submit(partial(take, image_id=image_id), encode)


def compute_on_dataset(
    model: nn.Module,
    data_loader: EvaluationLoader,
    device: torch.device,
    *,
    timer: Timer | None = None,
    should_stop: Callable[[], bool] | None = None,
    after_batch: Callable[[], None] | None = None,
) -> Generator[tuple[int, Prediction]]:
    """Each image's id and prediction on the CPU, in the pixels of the stored image.

    The model is in evaluation mode until the iterator ends or is closed. timer: measures the
    model's part, waiting for the device after each batch. should_stop: as in `inference`.
    after_batch: called when the last prediction of a batch was taken.
    """
    batches = batches_on(interruptible(data_loader, should_stop), device)
    with model_mode(model, training=False):
        for images, targets, image_ids in batches:
            with torch.inference_mode():
                if timer is not None:
                    timer.tic()
                outputs = model(images)
                if timer is not None:
                    if device.type != "cpu":
                        torch.accelerator.synchronize(device)
                    timer.toc()
            for image_id, target, output in zip(image_ids, targets, outputs, strict=True):
                image_size, original_size = image_sizes(target, image_id)
                yield image_id, Prediction.from_output(output, image_size, original_size)
            if after_batch is not None:
                after_batch()


def interruptible(
    data_loader: EvaluationLoader, should_stop: Callable[[], bool] | None
) -> Iterator[tuple[Any, Any, Any]]:
    """The loader's batches, until StopRequestedError on all ranks because one of them wants it.

    The ranks' shares may differ by a batch: what one has beyond the others is not asked about.
    """
    if should_stop is None:
        yield from data_loader
        return
    stopping = StopAgreement(should_stop)
    common_batches = min(all_gather(len(data_loader)))
    for number, batch in enumerate(data_loader, start=1):
        yield batch
        if number <= common_batches and stopping.after_step():
            raise StopRequestedError("scoring was given up, because the run is to stop")


def accumulate_predictions(evaluator: Evaluator) -> EvaluationResult:
    """Merge the ranks' matches on rank 0 and give the result to all; called by all ranks.

    Raises ValueError on every rank if an image is missing, was predicted twice, or is not the data
    set's, unless the evaluator only warns.
    """
    if get_world_size() == 1:
        return evaluator.result()
    evaluator.merge_notes(gather_bytes(evaluator.notes()))
    for task in evaluator.tasks:
        parts = gather_bytes(b"" if is_main_process() else evaluator.matches(task))
        if is_main_process():
            evaluator.merge_matches(task, parts)
    outcome: EvaluationResult | ValueError | None = None
    if is_main_process():
        try:
            outcome = evaluator.result()
        except ValueError as error:
            outcome = error
    outcome = broadcast(outcome)
    if isinstance(outcome, EvaluationResult):
        return outcome
    raise outcome or RuntimeError("rank 0 sent neither a result nor an error")


def start_anew(output_folder: str | Path) -> None:
    """Remove the predictions of an earlier evaluation; called by all ranks."""
    if is_main_process():
        remove_predictions(output_folder)
        remove_coco_results(output_folder)
    synchronize()


def prediction_writer(
    output_folder: str | Path | None, class_names: Sequence[str], origin: str
) -> "PredictionWriter | nullcontext[None]":
    """A writer for this rank's predictions; without a folder, nothing."""
    if output_folder is None:
        return nullcontext()
    return PredictionWriter(output_folder, class_names, rank=get_rank(), origin=origin)


def image_sizes(target: Any, image_id: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of the image as the model saw it, and as it is stored."""
    for key in ("image_size", "original_size"):
        if key not in target:
            raise ValueError(
                f"image {image_id}: its target has no {key!r}. In evaluation each target carries "
                "image_size and original_size, int64[2] as (height, width), so that predictions "
                "can be given in the pixels of the stored image; add both in the data set."
            )
    image_height, image_width = target["image_size"].tolist()
    height, width = target["original_size"].tolist()
    return (image_height, image_width), (height, width)


def log_time(what: str, timer: Timer, num_images: int) -> None:
    """A duration, and what it is for each image and device."""
    devices = get_world_size()
    logger.info(
        "%s: %s (%.4f s / img per device, on %d devices)",
        what,
        get_time_str(timer.total_seconds),
        timer.total_seconds * devices / max(num_images, 1),
        devices,
    )

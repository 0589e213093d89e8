"""Scoring what is predicted already: no model, no images, other questions."""

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from detengine.config.schema import Config
from detengine.data.annotation_cache import cache_folder
from detengine.data.build import load_truth
from detengine.data.lvis import load_coco_or_lvis
from detengine.evaluation.build import build_scoring_options, gives_proposals, iou_types_of
from detengine.evaluation.coco_results import CocoResults
from detengine.evaluation.detections import Detections
from detengine.evaluation.evaluate import evaluate
from detengine.evaluation.predictions_file import load_class_names, load_predictions
from detengine.evaluation.result import EvaluationResult
from detengine.evaluation.truth import Truth
from detengine.expectations import check_expectations
from detengine.monitor.logs import logging_to
from detengine.output_folder import make_output_folder
from detengine.scoring import Results, write_results
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.prediction import Prediction
from detengine.structures.selection import select

logger = logging.getLogger("detengine.scoring")


@dataclass(frozen=True)
class Subset:
    """What of a data set is scored. classes: names; image_ids: of the data set. None: all."""

    classes: Sequence[str] | None = None
    image_ids: Collection[int] | None = None


EVERYTHING = Subset()


def rescore(
    cfg: Config,
    predictions: Path,
    *,
    annotations: Path | None = None,
    iou_types: Sequence[str] = (),
    subset: Subset = EVERYTHING,
    output_folder: Path | None = None,
) -> Results:
    """Score stored predictions, of this program or a COCO result file; one process.

    predictions: a folder of an evaluation (`inference/<test set>`, or the one above it for several
    test sets), one of its files, or a json. annotations: a COCO or LVIS json in the place
    of DATASETS.TEST. iou_types: what is scored; none for what the configuration's model
    predicts, or without one for what the json has, boxes else.
    output_folder: where results.json is written; None writes nothing.
    Raises ValueError or FileNotFoundError, naming file and image, and ExpectedResultsError.
    """
    truths = load_truths(cfg, annotations)
    several = len(truths) > 1
    with logging_to(None):
        results = {
            name: _rescore_one(
                cfg,
                name,
                truth,
                _of_test_set(predictions, name, needed=several),
                tuple(iou_types) or (() if annotations else iou_types_of(cfg)),
                subset,
            )
            for name, truth in truths.items()
        }
        for name, result in results.items():
            logger.info("%s\n%s", name, result.table())
        if output_folder is not None:
            write_results(results, make_output_folder(output_folder))
        if subset == EVERYTHING:  # what is expected is expected of the whole
            check_expectations(cfg, results)
    return results


def load_truths(cfg: Config, annotations: Path | None) -> dict[str, GroundTruth]:
    """What is to be found, by test set: of a json alone by its name, without the suffix."""
    if annotations is not None:
        if not annotations.is_file():
            raise FileNotFoundError(
                f"there is no file {annotations}; --annotations is a COCO annotation file"
            )
        cache = cache_folder() if cfg.DATASETS.CACHE else None
        return {annotations.stem: load_coco_or_lvis(annotations, annotations.stem, cache=cache)}
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: name at least one data set to score on")
    return {name: load_truth(cfg, name, for_scoring=True)[0] for name in cfg.DATASETS.TEST}


def _of_test_set(predictions: Path, name: str, *, needed: bool) -> Path:
    """The predictions of one test set, where a folder has those of several."""
    if (predictions / name).is_dir():
        return predictions / name
    if needed:
        raise FileNotFoundError(
            f"{predictions} has no predictions of {name!r}: of several test sets, each has a "
            "folder of its own name there. Give the folder above them, or name one test set as "
            "DATASETS.TEST"
        )
    return predictions


class OpenPredictions(NamedTuple):
    """What was predicted. predictions: each image's id, and what was found in it; read once.

    class_names: of the labels 1..K. iou_types: what is to be scored.
    """

    class_names: Sequence[str]
    iou_types: Sequence[str]
    predictions: Iterable[tuple[int, Prediction | Detections]]


def open_predictions(
    path: Path,
    truth: GroundTruth,
    iou_types: Sequence[str] = (),
    *,
    chosen: GroundTruth | None = None,
) -> OpenPredictions:
    """The predictions of one test set, in a folder, one of its files, or a COCO result file.

    Images that a result file does not mention come without detections, and its numbers in its own
    precision. iou_types: none for all that a result file has, or boxes. chosen: a part of the
    truth, the rest of which is left out; None for all of it. Raises as `rescore`.
    """
    chosen = truth if chosen is None else chosen
    if path.suffix != ".json":
        class_names = load_class_names(path)
        predictions = _of_part(load_predictions(path), truth, chosen, class_names)
        return OpenPredictions(class_names, iou_types or ("bbox",), predictions)
    found = CocoResults(path, truth)
    found.raise_if_foreign(truth)
    iou_types, class_names = iou_types or found.iou_types(), chosen.categories.names
    detections = found.detections(Truth(chosen, class_names), iou_types)
    return OpenPredictions(class_names, iou_types, detections)


def _of_part(
    predictions: Iterable[tuple[int, Prediction]],
    truth: GroundTruth,
    chosen: GroundTruth,
    class_names: Sequence[str],
) -> Iterator[tuple[int, Prediction]]:
    """Without the images and classes of the truth that were not chosen; foreign ones stay."""
    left_out = set(truth.image_ids.tolist()) - set(chosen.image_ids.tolist())
    dropped = set(truth.categories.names) - set(chosen.categories.names)
    labels = [k for k, name in enumerate(class_names, start=1) if name not in dropped]
    for image_id, prediction in predictions:
        if image_id not in left_out:
            yield image_id, prediction.of_labels(labels) if dropped else prediction


def _rescore_one(
    cfg: Config,
    name: str,
    truth: GroundTruth,
    predictions: Path,
    iou_types: Sequence[str],
    subset: Subset,
) -> EvaluationResult:
    chosen = select(truth, class_names=subset.classes, image_ids=subset.image_ids)
    opened = open_predictions(predictions, truth, iou_types, chosen=chosen)
    return evaluate(
        chosen,
        opened.predictions,
        truth.categories.names if gives_proposals(cfg) else opened.class_names,
        opened.iou_types,
        options=build_scoring_options(
            cfg, name if name in cfg.DATASETS.TEST else None, of_lvis=truth.federated is not None
        ),
        on_wrong_images=cfg.TEST.ON_WRONG_IMAGES,
    )

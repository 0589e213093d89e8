"""What `analyze` and `compare` are given: stored predictions, and the truth they are about."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import typer

from detengine.config.catalog import find_definition
from detengine.config.load import load_config
from detengine.config.schema import Config
from detengine.data.build import FORMATS
from detengine.data.coco import load_coco
from detengine.evaluation.build import build_scoring_options
from detengine.evaluation.image_tally import OnWrongImages
from detengine.evaluation.options import ScoringOptions
from detengine.evaluation.predictions_file import load_class_names, load_predictions
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.prediction import Prediction


class OpenPredictions(NamedTuple):
    """class_names: of the labels 1..K. predictions: (image_id, Prediction), read once."""

    class_names: Sequence[str]
    predictions: Iterable[tuple[int, Prediction]]


class Against(NamedTuple):
    """The truth, and how predictions are scored by it."""

    ground_truth: GroundTruth
    options: ScoringOptions
    on_wrong_images: OnWrongImages


def open_predictions(path: Path) -> OpenPredictions:
    """The predictions of a test set's folder. Raises FileNotFoundError where there are none."""
    if not path.is_dir():
        raise FileNotFoundError(
            f"there is no folder {path}; expected one with stored predictions, as an evaluation "
            "leaves it: OUTPUT_DIR/inference/<test set>"
        )
    return OpenPredictions(load_class_names(path), load_predictions(path))


def find_truth(
    stored: Sequence[Path],
    config_file: Path | None,
    annotations: Path | None,
    overrides: Sequence[str],
) -> Against:
    """The ground truth of a COCO file, or of the configuration's test set.

    stored: where the predictions are; of several test sets, that which a folder is named after.
    Raises a usage error unless it is one of the two, and ValueError or OSError for what is amiss.
    """
    if (config_file is None) == (annotations is None):
        raise typer.BadParameter("Give the ground truth: -c FILE, or --annotations GT.json.")
    if config_file is not None:
        cfg = load_config(config_file, overrides)
        name = _find_test_set(cfg, stored)
        definition, root = find_definition(cfg.DATASETS, name)
        truth, _ = FORMATS[definition.FORMAT](definition, root, name)
        return Against(truth, build_scoring_options(cfg, name), cfg.TEST.ON_WRONG_IMAGES)
    if overrides:
        raise typer.BadParameter(f"{overrides[0]} changes a configuration: it goes with -c FILE.")
    if annotations is None or not annotations.is_file():
        raise FileNotFoundError(
            f"there is no file {annotations}; --annotations is a COCO annotation file"
        )
    return Against(load_coco(annotations, None, annotations.name), ScoringOptions(), "error")


def _find_test_set(cfg: Config, stored: Sequence[Path]) -> str:
    test_sets = cfg.DATASETS.TEST
    named = sorted({path.resolve().name for path in stored} & set(test_sets))
    if len(named) > 1:
        raise ValueError(f"the predictions are of different test sets: {', '.join(named)}")
    if not named and len(test_sets) != 1:
        raise ValueError(
            f"DATASETS.TEST is {', '.join(test_sets) or 'empty'}, and none is named as the "
            f"predictions' folder, {stored[0].resolve().name}. Set DATASETS.TEST to their test set."
        )
    return named[0] if named else test_sets[0]


def write_json(content: dict[str, Any], folder: Path, name: str) -> None:
    """Write a file of plain types, in a folder that is made if need be, and say where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(orjson.dumps(content) + b"\n")
    typer.echo(f"\nwrote {path}")

"""What `analyze` and `compare` are given: stored predictions, and the truth they are about."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import typer

from detengine.config.load import load_config, replace
from detengine.config.schema import Config
from detengine.disk.writing import write_bytes
from detengine.evaluation.build import build_scoring_options
from detengine.evaluation.coco import IOU_TYPES
from detengine.evaluation.image_tally import OnWrongImages
from detengine.evaluation.options import ScoringOptions
from detengine.output_folder import make_output_folder
from detengine.rescoring import load_truths
from detengine.structures.ground_truth import GroundTruth


class Against(NamedTuple):
    """The truth, and how predictions are scored by it."""

    ground_truth: GroundTruth
    options: ScoringOptions
    on_wrong_images: OnWrongImages


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
    cfg = load_scoring_config(config_file, overrides)
    name = None if annotations else _find_test_set(cfg, stored)
    if name is not None:
        cfg = replace(cfg, {"DATASETS.TEST": (name,)})
    [truth] = load_truths(cfg, annotations).values()
    options = build_scoring_options(cfg, name, of_lvis=truth.federated is not None)
    return Against(truth, options, cfg.TEST.ON_WRONG_IMAGES)


def load_scoring_config(config_file: Path | None, overrides: Sequence[str]) -> Config:
    """The file's configuration; without a file, there is none of the predecessor's either."""
    conventions = () if config_file else ("CONVENTIONS", "modern")
    return load_config(config_file, [*conventions, *overrides])


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


def raise_if_no_iou_type(given: str) -> None:
    """Raise a usage error for what --iou-type cannot be."""
    if given not in IOU_TYPES:
        raise typer.BadParameter(f"--iou-type is {given!r}, but is one of {', '.join(IOU_TYPES)}")


def write_json(content: dict[str, Any], folder: Path, name: str) -> None:
    """Write a file of plain types, in a folder that is made if need be, and say where it is."""
    path = make_output_folder(folder) / name
    write_bytes(path, orjson.dumps(content) + b"\n")
    typer.echo(f"\nwrote {path}")

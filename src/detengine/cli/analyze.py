"""detengine analyze: what costs stored predictions their AP."""

from collections.abc import Sequence
from pathlib import Path

import typer

from detengine.cli.predictions import find_truth, raise_if_no_iou_type, write_json
from detengine.evaluation.analysis import analyze
from detengine.rescoring import open_predictions
from detengine.untrusted.text import printable


def analyze_predictions(
    stored: Path,
    config_file: Path | None,
    annotations: Path | None,
    overrides: Sequence[str],
    *,
    iou_type: str,
    score_threshold: float,
    output_dir: Path | None,
) -> None:
    """Print the tables, and write analysis.json where there is an output folder, nothing else."""
    raise_if_no_iou_type(iou_type)
    truth = find_truth([stored], config_file, annotations, overrides)
    opened = open_predictions(stored, truth.ground_truth, (iou_type,))
    found = analyze(
        truth.ground_truth,
        opened.predictions,
        opened.class_names,
        iou_type,
        options=truth.options,
        on_wrong_images=truth.on_wrong_images,
        score_threshold=score_threshold,
    )
    typer.echo(printable(found.table()))
    if output_dir is not None:
        write_json(found.to_json(), output_dir, "analysis.json")

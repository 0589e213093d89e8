"""detengine compare: which of two runs is better on the same images, and how certainly."""

from collections.abc import Sequence
from pathlib import Path

import typer

from detengine.cli.predictions import find_truth, raise_if_no_iou_type, write_json
from detengine.evaluation.comparison import compare
from detengine.rescoring import open_predictions
from detengine.untrusted.text import printable


def compare_predictions(
    stored_a: Path,
    stored_b: Path,
    config_file: Path | None,
    annotations: Path | None,
    overrides: Sequence[str],
    *,
    iou_type: str,
    samples: int,
    output_dir: Path | None,
) -> None:
    """Print the table, and write comparison.json where there is an output folder, nothing else."""
    raise_if_no_iou_type(iou_type)
    truth = find_truth([stored_a, stored_b], config_file, annotations, overrides)
    a, b = (
        open_predictions(path, truth.ground_truth, (iou_type,)) for path in (stored_a, stored_b)
    )
    found = compare(
        truth.ground_truth,
        a.predictions,
        b.predictions,
        a.class_names,
        b.class_names,
        iou_type=iou_type,
        options=truth.options,
        samples=samples,
    )
    typer.echo(printable(f"A is {stored_a}\nB is {stored_b}\n\n{found.table()}"))
    if output_dir is not None:
        write_json(found.to_json(), output_dir, "comparison.json")

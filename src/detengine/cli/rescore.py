"""`detengine eval --predictions`: what was predicted, scored again."""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import typer

from detengine.cli.app import EXIT_EXPECTATION_MISSED
from detengine.cli.predictions import load_scoring_config, raise_if_no_iou_type
from detengine.evaluation.expected import ExpectedResultsError
from detengine.rescoring import Subset, rescore
from detengine.untrusted.text import printable

_IMAGE_ID = re.compile(r"-?[0-9]{1,19}")
_SHOWN = 80


def rescore_predictions(
    predictions: Path,
    config_file: Path | None,
    overrides: Sequence[str],
    *,
    annotations: Path | None,
    iou_types: Sequence[str],
    classes: str | None,
    images: str | None,
    output_dir: Path | None,
) -> None:
    """Ends with exit code 3 where an expected result is missed."""
    for iou_type in iou_types:
        raise_if_no_iou_type(iou_type)
    cfg = load_scoring_config(config_file, overrides)
    subset = Subset(
        None if classes is None else [name.strip() for name in classes.split(",")],
        None if images is None else image_ids_of(images),
    )
    try:
        rescore(
            cfg,
            predictions,
            annotations=annotations,
            iou_types=iou_types,
            subset=subset,
            output_folder=output_dir,
        )
    except ExpectedResultsError as error:
        with suppress(OSError):  # nobody may be there to read it
            typer.echo(printable(f"error: {error}"), err=True)
        raise typer.Exit(EXIT_EXPECTATION_MISSED) from error


def image_ids_of(given: str) -> list[int]:
    """The ids in a list, or in a file of that name: numbers between commas or blanks."""
    words = _text_of(given).replace(",", " ").split()
    wrong = [word for word in words if not _IMAGE_ID.fullmatch(word)]
    if wrong or not words:
        what = f"{wrong[0][:_SHOWN]!r} is no image id" if wrong else "nothing is an image id"
        raise ValueError(
            f"--images is {given[:_SHOWN]!r}, of which {what}; expected integers with commas "
            "between them, or a file that holds them"
        )
    return [int(word) for word in words]


def _text_of(given: str) -> str:
    path = Path(given)
    try:
        is_file = path.is_file()
    except OSError:  # a list may be too long for a file's name
        is_file = False
    return path.read_text(encoding="utf-8", errors="replace") if is_file else given

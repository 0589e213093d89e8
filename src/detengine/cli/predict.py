"""`detengine predict`: files in, drawn pictures and a json out."""

import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import typer

from detengine.data.video import import_av
from detengine.engine.tiling import make_tiling
from detengine.loading import load
from detengine.monitor.logs import logging_to
from detengine.picture_files import find_pictures
from detengine.predicting import (
    RESULTS,
    PredictingOptions,
    predict,
    raise_if_incomplete,
    raise_if_not_empty,
)
from detengine.untrusted.text import printable

_TILE = re.compile(r"(\d{1,6})(?:x(\d{1,6}))?")


def predict_files(
    run_or_weights: str,
    inputs: Sequence[str],
    output_dir: Path,
    *,
    overwrite: bool,
    device: str,
    best: bool,
    config_file: Path | None,
    score_threshold: float,
    batch_size: int,
    tile: str | None,
    tile_overlap: float,
    draws: bool,
    prints_json: bool,
) -> None:
    """Everything that can be said at once is said before the model is loaded."""
    options = PredictingOptions(score_threshold, draws, batch_size, tile_of(tile), tile_overlap)
    make_tiling(options.tile, tile_overlap)
    files = find_pictures(inputs, beside=output_dir)
    if files.videos:
        import_av(f"reading the video {files.videos[0].path}")
    if not overwrite:
        raise_if_not_empty(output_dir)
    with nullcontext() if prints_json else logging_to(None):
        predictor = load(run_or_weights, device=device, config=config_file, best=best)
        if not overwrite:  # another command may have begun there in the meantime
            raise_if_not_empty(output_dir)
        try:
            tally = predict(predictor, files, output_dir, options)
        except KeyboardInterrupt:
            typer.echo(f"Stopped: {output_dir / RESULTS} has what was found until then.", err=True)
            raise
    if prints_json:
        sys.stdout.buffer.write((output_dir / RESULTS).read_bytes())
    else:
        passed_over = f" (passed over: files of other kinds, {files.passed_over})"
        said = f"{printable(str(tally), keep='')}, from score {score_threshold:g}"
        typer.echo(f"{said}{passed_over * (files.passed_over > 0)}")
        if not tally.objects and tally.pictures + tally.frames:
            typer.echo("A lower --score-threshold shows what the model is less sure of.")
        typer.echo(f"wrote {output_dir / RESULTS}{' and the drawn pictures beside it' * draws}")
    raise_if_incomplete(tally, output_dir)


def tile_of(given: str | None) -> tuple[int, int] | None:
    """(height, width) of SIDE or HEIGHTxWIDTH. Raises a usage error for anything else."""
    if given is None:
        return None
    match = _TILE.fullmatch(given)
    if match is None:
        raise typer.BadParameter(
            f"--tile is {given!r}; expected a side in pixels, such as 1024, or HEIGHTxWIDTH, such "
            "as 768x1024"
        )
    return int(match[1]), int(match[2] or match[1])

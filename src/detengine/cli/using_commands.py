"""The commands that use a trained model: each says what it takes, and hands it on."""

from pathlib import Path
from typing import Annotated

import typer

using = typer.Typer()


@using.command()
def predict(
    run_or_weights: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_WEIGHTS",
            help="A run's output folder, a checkpoint, or a name such as "
            "torchvision://maskrcnn_resnet50_fpn_v2.",
        ),
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Pictures, videos, folders (with all that are in them), or patterns.",
        ),
    ],
    output_dir: Annotated[
        Path,
        typer.Option(
            "--output-dir", "--output", help="Where everything is written.", metavar="FOLDER"
        ),
    ] = Path("predictions"),
    score_threshold: Annotated[
        float,
        typer.Option(
            "--score-threshold",
            min=0.0,
            max=1.0,
            help="From which score on detections are drawn and written.",
            metavar="SCORE",
        ),
    ] = 0.5,
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu, mps, cuda or cuda:N.", metavar="DEVICE")
    ] = "auto",
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", min=1, help="Pictures, frames or tiles at a time.", metavar="N"
        ),
    ] = 1,
    tile: Annotated[
        str | None,
        typer.Option(
            "--tile",
            help="Look at larger pictures in tiles of this side, or of HEIGHTxWIDTH, in pixels.",
            metavar="SIDE",
        ),
    ] = None,
    tile_overlap: Annotated[
        float,
        typer.Option(
            "--tile-overlap",
            help="How far tiles overlap, as a fraction of their sides. What fits in it is found "
            "whole.",
            metavar="FRACTION",
        ),
    ] = 0.2,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Draw what was found.")
    ] = True,
    json: Annotated[
        bool, typer.Option("--json", help="Print predictions.json, and nothing else.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write into a folder that holds files already.")
    ] = False,
    best: Annotated[
        bool, typer.Option("--best", help="Of a run take model_best instead of the last one.")
    ] = False,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "-c", "--config-file", help="The model's YAML file, if it is not known.", metavar="FILE"
        ),
    ] = None,
) -> None:
    """Find objects in pictures and videos, and draw them.

    All that is found is in predictions.json. Files that cannot be read are named at the end, and
    the exit code is 1; the others are done.

    Example: detengine predict runs/nuclei scans/ --output-dir found

    Example: detengine predict runs/nuclei slide.tif film.mp4 --tile 1024
    """
    from detengine.cli.predict import predict_files

    predict_files(
        run_or_weights,
        inputs,
        output_dir,
        overwrite=overwrite,
        device=device,
        best=best,
        config_file=config_file,
        score_threshold=score_threshold,
        batch_size=batch_size,
        tile=tile,
        tile_overlap=tile_overlap,
        draws=pictures,
        prints_json=json,
    )

"""The commands around data: each says what it takes, and hands it on."""

from pathlib import Path
from typing import Annotated

import typer

from detengine.cli.app import (
    WITH_OVERRIDES,
    ConfigFileOrData,
    DataFolder,
    Overrides,
    Weights,
    overrides_of,
)

data = typer.Typer()


@data.command(context_settings=WITH_OVERRIDES)
def doctor(
    overrides: Overrides = None,
    config_file: ConfigFileOrData = None,
    data_folder: DataFolder = None,
    weights: Weights = None,
    model: Annotated[
        bool,
        typer.Option(
            "--model/--no-model",
            help="Try the model, too: steps, scoring, a checkpoint, the loader's speed.",
        ),
    ] = True,
    strict: Annotated[
        bool, typer.Option("--strict", help="End with exit code 1 at a warning, too.")
    ] = False,
    nproc: Annotated[
        int,
        typer.Option("--nproc", help="Processes that the training will have.", metavar="N", min=1),
    ] = 1,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", help="Where to write doctor.json.", metavar="FOLDER"),
    ] = None,
) -> None:
    """Look at data, model and machine before a training.

    All that is wrong with data, model, memory, disk and speed is named, with its cure; nothing is
    left behind. Exit code 0: no error was found; 1: errors were.

    Example: detengine doctor --data path/to/folder

    Example: detengine doctor -c configs/nuclei.yaml
    """
    from detengine.cli.doctor import examine_run

    examine_run(
        config_file,
        data_folder,
        overrides_of(overrides),
        weights=weights,
        with_model=model,
        strict=strict,
        ranks=nproc,
        output_dir=output_dir,
    )


@data.command(context_settings=WITH_OVERRIDES)
def show(
    dataset: Annotated[
        str,
        typer.Argument(metavar="DATASET", help="Its name; with --data also train, val or test."),
    ],
    overrides: Overrides = None,
    config_file: ConfigFileOrData = None,
    data_folder: DataFolder = None,
    count: Annotated[
        int, typer.Option("--count", help="How many images, spread evenly.", metavar="N", min=1)
    ] = 8,
    draws: Annotated[
        int,
        typer.Option(
            "--draws", help="How many of training's variants of each.", metavar="N", min=0
        ),
    ] = 3,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Draw the images at random, by this number.", metavar="N"),
    ] = None,
    images: Annotated[
        str | None, typer.Option("--images", help="These images instead.", metavar="ID,ID")
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            help="Where page and pictures are written; else show-DATASET.",
            metavar="FOLDER",
        ),
    ] = None,
) -> None:
    """Draw samples of data, as stored and as training sees them.

    Example: detengine show train --data path/to/folder

    Example: detengine show nuclei_train -c configs/nuclei.yaml
    """
    from detengine.cli.show import show_dataset

    show_dataset(
        dataset,
        config_file,
        data_folder,
        overrides_of([dataset, "", *(overrides or [])])[2:],
        count=count,
        draws=draws,
        seed=seed,
        images=images,
        output_dir=output_dir,
    )

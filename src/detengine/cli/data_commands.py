"""The commands around data: each says what it takes, and hands it on."""

from pathlib import Path
from typing import Annotated

import typer

from detengine.cli.app import WITH_OVERRIDES, Overrides, overrides_of

data = typer.Typer()

RunConfig = Annotated[
    Path | None,
    typer.Option("-c", "--config-file", help="The run's YAML file.", metavar="FILE"),
]


@data.command(context_settings=WITH_OVERRIDES)
def doctor(
    overrides: Overrides = None,
    config_file: RunConfig = None,
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
    """Look at data, model, memory, disk and speed before a training, and name all that is wrong.

    Nothing is left behind. Exit code 0: no error was found; 1: errors were.

    Example: detengine doctor -c configs/nuclei.yaml
    """
    if config_file is None:
        raise typer.BadParameter("Missing option '-c' / '--config-file'.")
    from detengine.cli.doctor import examine_run

    examine_run(
        config_file,
        overrides_of(overrides),
        with_model=model,
        strict=strict,
        ranks=nproc,
        output_dir=output_dir,
    )

"""The command `export`: what it takes, and to whom it hands it on."""

from pathlib import Path
from typing import Annotated

import typer

from detengine.cli.app import WITH_OVERRIDES, Overrides, overrides_of

exporting = typer.Typer()


@exporting.command(context_settings=WITH_OVERRIDES)
def export(
    run_or_weights: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_WEIGHTS",
            help="A run's folder, a checkpoint, or the name of published weights.",
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The file to write.")],
    overrides: Overrides = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "-c",
            "--config-file",
            help="The model's YAML file, for weights that have none.",
            metavar="FILE",
        ),
    ] = None,
    opset: Annotated[
        int, typer.Option("--opset", help="The version of ONNX's operators, 18 to 20.", metavar="N")
    ] = 18,
    check: Annotated[
        list[Path] | None,
        typer.Option(
            "--check",
            help="A picture to compare file and model on; may be repeated. Without it, some of "
            "the run's first test set, or where that is gone of the demo.",
            metavar="IMAGE",
        ),
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="Of a run's checkpoints take the best, not the last.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there already.")
    ] = False,
) -> None:
    """Write a model as one ONNX file, and check it against the model.

    The file is run by ONNX Runtime, and there only if it finds what the model finds.

    Example: detengine export runs/nuclei nuclei.onnx
    """
    for stray in [key for key in (overrides or [])[::2] if Path(key).is_file()]:
        raise typer.BadParameter(f"{stray} is a file: write --check before each picture.")
    typer.echo(f"exporting {run_or_weights}, then comparing it with the model: about a minute ...")
    from detengine.exporting import export_onnx

    exported = export_onnx(
        run_or_weights,
        target,
        config=config_file,
        overrides=overrides_of([run_or_weights, "", str(target), "", *(overrides or [])])[4:],
        best=best,
        opset=opset,
        pictures=check or (),
        overwrite=overwrite,
    )
    size = exported.path.stat().st_size / 2**20
    typer.echo(f"wrote {exported.path} ({size:.1f} MiB, opset {exported.opset})")
    typer.echo(f"compared with the model: {exported.agreement}")
    if exported.agreement.detections == 0:
        typer.secho(
            "The model found nothing in the pictures, so that little was compared: name some in "
            "which it does with --check IMAGE.",
            fg=typer.colors.YELLOW,
            err=True,
        )

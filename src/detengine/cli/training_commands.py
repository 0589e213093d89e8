"""The commands around a training: each says what it takes, and hands it on."""

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

training, files, trying = typer.Typer(), typer.Typer(), typer.Typer()


@training.command(context_settings=WITH_OVERRIDES)
def train(
    config_file: ConfigFileOrData = None,
    overrides: Overrides = None,
    data: DataFolder = None,
    weights: Weights = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            help="Where everything is written; else OUTPUT_DIR of the file, and with --data "
            "runs/<name of the folder>.",
            metavar="FOLDER",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the folder's run.")] = False,
    skip_test: Annotated[
        bool, typer.Option("--skip-test", help="Do not score at the end.")
    ] = False,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay",
            help="Repeat the step of a run's nonfinite_*.json, show where it is not finite, and "
            "write nothing.",
            metavar="RECORD",
        ),
    ] = None,
) -> None:
    """Train a detector, then score it on DATASETS.TEST.

    With --data, a configuration is chosen for the folder, and kept in the output folder.

    Example: detengine train --data path/to/folder

    Example: detengine train -c my.yaml --output-dir runs/a SOLVER.MAX_ITER 500
    """
    if data is not None:
        for option, is_given in (("-c", config_file is not None), ("--replay", replay is not None)):
            if is_given:
                raise typer.BadParameter(f"--data and {option} exclude each other: name one")
        from detengine.cli.train_on_folder import train_on_folder

        pairs = overrides_of(overrides)
        train_on_folder(
            data, pairs, output_dir, weights=weights, resume=resume, skip_test=skip_test
        )
        return
    if config_file is None:
        raise typer.BadParameter("Missing option '-c' / '--config-file', or '--data'.")
    if weights is not None:
        raise typer.BadParameter("--weights goes with --data; with -c it is MODEL.WEIGHT NAME")
    from detengine.cli.train import replay_from_file, train_from_file

    if replay is not None:
        if resume:
            raise typer.BadParameter("--replay writes nothing, so --resume means nothing beside it")
        replay_from_file(config_file, overrides_of(overrides, output_dir), replay)
        return
    train_from_file(config_file, overrides_of(overrides, output_dir), resume, skip_test)


@trying.command()
def demo(
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            help="Where everything is written; else detengine-demo.",
            metavar="FOLDER",
        ),
    ] = None,
    prove: Annotated[
        bool,
        typer.Option(
            "--prove-resume",
            help="Kill a training half-way, resume it, and compare its weights with an unbroken "
            "one's.",
        ),
    ] = False,
) -> None:
    """Train a small Mask R-CNN on pictures that the package carries.

    It takes a minute or two on two CPU cores.

    Example: detengine demo --output-dir demo
    """
    from detengine.cli.demo import run_demo

    run_demo(output_dir, prove=prove)


@trying.command()
def selftest(
    nproc: Annotated[
        int, typer.Option("--nproc", help="Ranks that are compared with one.", metavar="N")
    ] = 2,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir", help="Keep all runs there; else nothing is kept.", metavar="FOLDER"
        ),
    ] = None,
) -> None:
    """Show that several ranks of this machine train and score as one.

    It takes about a minute.

    Example: detengine selftest --nproc 2
    """
    from detengine.cli.selftest import selftest as run_selftest

    run_selftest(nproc, output_dir)


@files.command(context_settings=WITH_OVERRIDES)
def config(
    config_file: Annotated[
        Path | None, typer.Argument(help="The YAML file.", metavar="FILE", show_default=False)
    ] = None,
    overrides: Overrides = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Only what differs from the defaults.")
    ] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="The JSON Schema of all files, for editors.")
    ] = False,
    reference: Annotated[
        bool, typer.Option("--reference", help="The page of all options, as Markdown.")
    ] = False,
    data: DataFolder = None,
    weights: Weights = None,
) -> None:
    """Print a configuration, resolved, or the one chosen for a folder.

    Example: detengine config configs/nuclei.yaml SOLVER.BASE_LR 0.01 --diff

    Example: detengine config --data path/to/folder > recipe.yaml
    """
    if data is not None:
        from detengine.cli.train_on_folder import show_chosen

        # the first word after the options is taken for FILE
        words = [*([] if config_file is None else [str(config_file)]), *(overrides or [])]
        show_chosen(data, overrides_of(words), weights=weights)
        return
    from detengine.cli.config import show_config, show_reference, show_schema

    if schema:
        show_schema()
    elif reference:
        show_reference()
    elif config_file is None:
        raise typer.BadParameter("Missing argument 'FILE', or --data, --schema or --reference.")
    else:
        show_config(config_file, overrides_of(overrides), diff)


@files.command(context_settings=WITH_OVERRIDES)
def convert(
    source: Annotated[
        str,
        typer.Argument(metavar="IN", help="Weights of any known format: a file, or an address."),
    ],
    target: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="The file: .pth, .safetensors, or .pkl (Caffe2)."),
    ],
    overrides: Overrides = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "-c", "--config-file", help="The model's YAML file, if IN has none.", metavar="FILE"
        ),
    ] = None,
    ema: Annotated[
        bool, typer.Option("--ema/--no-ema", help="Take the averaged weights, if there are any.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
) -> None:
    """Convert weights to another format, without training.

    Example: detengine convert -c configs/bccd_r50.yaml R-50.pkl R-50.pth
    """
    from detengine.cli.convert import convert_weights

    pairs = overrides_of([source, str(target), *(overrides or [])])[2:]
    convert_weights(source, target, config_file, pairs, use_ema=ema, overwrite=overwrite)

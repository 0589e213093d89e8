"""The command line as a whole, and what its commands have in common."""

from pathlib import Path
from typing import Annotated

import typer

from detengine import __version__

EXIT_ERROR, EXIT_EXPECTATION_MISSED, EXIT_STOPPED = 1, 3, 75

ABOUT = """Train and score object detectors and instance segmenters.

A first try: detengine demo. Your own data: detengine train --data FOLDER.
"""

app = typer.Typer(
    name="detengine",
    help=ABOUT,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # frames leave no room for words in 80 columns
)

ConfigFileOrData = Annotated[
    Path | None,
    typer.Option("-c", "--config-file", help="The run's YAML file; or --data.", metavar="FILE"),
]
DataFolder = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="A folder of data (COCO json, PASCAL VOC, YOLO), for which everything is chosen.",
        metavar="DIR",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="With --data, what to start from: a file, an address or a name; '' for nothing.",
        metavar="NAME",
        show_default=False,
    ),
]
OutputFolder = Annotated[
    Path | None,
    typer.Option("--output-dir", help="Where everything is written.", metavar="FOLDER"),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Keys of the configuration, which win over the file: SOLVER.MAX_ITER 500 ...",
        metavar="KEY VALUE",
        show_default=False,
    ),
]
# A negative VALUE must not be taken for an option; `overrides_of` refuses what is really unknown.
WITH_OVERRIDES = {"ignore_unknown_options": True}


def print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"detengine {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; anywhere in the line.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=print_version, is_eager=True),
    ] = False,
) -> None:
    """What stands before a command."""


def overrides_of(given: list[str] | None, output_dir: Path | None = None) -> list[str]:
    """The KEY VALUE list of the command line, with --output-dir as one of its pairs.

    Raises a usage error where an unknown option stands among the keys.
    """
    pairs = list(given or [])
    for key in pairs[::2]:
        if key.startswith("-"):
            raise typer.BadParameter(f"No such option: {key}")
    # first, so that a KEY without its VALUE is still the last word, and can be named
    return pairs if output_dir is None else ["OUTPUT_DIR", str(output_dir), *pairs]

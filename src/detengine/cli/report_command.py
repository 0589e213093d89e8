"""The command `report`: says what it takes, and hands it on."""

from pathlib import Path
from typing import Annotated

import typer

reporting = typer.Typer()


@reporting.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="A run's folder; several are compared."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help="The file to write: report.html in the run's folder, or, of several runs, here.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            "--samples",
            help="Of two runs: how often the images are drawn anew, for the intervals.",
            metavar="N",
            min=1,
        ),
    ] = 1000,
) -> None:
    """Write one page about a run, or about several side by side.

    It is made of what lies in the runs' folders, and of their pictures where those are there.

    Example: detengine report runs/nuclei

    Example: detengine report runs/a runs/b --output a_and_b.html
    """
    from detengine.cli.report import report_runs

    report_runs(runs, output, samples)

"""detengine report: a run's page made anew, or several runs beside each other."""

from collections.abc import Sequence
from pathlib import Path

import typer

from detengine.monitor.logs import logging_to
from detengine.run_report.reporting import REPORT, write_comparison, write_report


def report_runs(runs: Sequence[Path], output: Path | None, samples: int) -> None:
    """Write the page, and print its path alone."""
    for folder in runs:
        if not folder.is_dir():
            raise FileNotFoundError(
                f"there is no folder {folder}. Give the output folder of a training or a scoring."
            )
    with logging_to(None):
        if len(runs) == 1:
            path = write_report(runs[0], output=output)
        else:
            path = write_comparison(runs, output or Path(REPORT), samples=samples)
    typer.echo(path)

"""The commands `train` and `eval`: a file and overrides in, exit codes out."""

import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import typer

from detengine.cli.app import EXIT_EXPECTATION_MISSED, EXIT_STOPPED
from detengine.config.load import load_config
from detengine.config.schema import Config
from detengine.distributed.launch import stop_distributed
from detengine.distributed.report import is_said_by_another
from detengine.evaluation.expected import ExpectedResultsError
from detengine.output_folder import CONFIG
from detengine.replaying import replay
from detengine.run import evaluate, train
from detengine.untrusted.text import printable


def train_from_file(
    config_file: Path, overrides: Sequence[str], resume: bool, skip_test: bool
) -> None:
    """`detengine train -c`. Exit code 3: an expected result was missed; 75: stopped, resumable."""
    train_and_end(load_config(config_file, overrides), resume=resume, skip_test=skip_test)


def train_and_end(cfg: Config, *, resume: bool, skip_test: bool) -> None:
    """Train, and end the process with the exit code that says how that went."""
    try:
        result = train(cfg, resume=resume, skip_test=skip_test)
    except ExpectedResultsError as error:
        if not is_said_by_another(error, str(error)):
            with suppress(OSError):  # nobody may be there to read it
                typer.echo(printable(f"error: {error}"), err=True)
        raise typer.Exit(EXIT_EXPECTATION_MISSED) from error
    stop_distributed()
    if not result.finished:
        folder = result.output_folder
        command = f"detengine train -c {shlex.quote(str(folder / CONFIG))} --resume"
        with suppress(OSError):  # a terminal that is gone was a reason to stop
            typer.echo(f"Stopped, and saved in {folder}. To go on: {command}", err=True)
        raise typer.Exit(EXIT_STOPPED)


def replay_from_file(config_file: Path, overrides: Sequence[str], record: Path) -> None:
    """`detengine train --replay`. Ends well if the step could be repeated, whatever it showed."""
    typer.echo(printable(replay(load_config(config_file, overrides), record)))


def evaluate_from_file(
    config_file: Path, weights: str, overrides: Sequence[str], resume: bool
) -> None:
    """`detengine eval`. Ends with exit code 3 where an expected result is missed."""
    try:
        evaluate(load_config(config_file, overrides), weights, resume=resume)
        stop_distributed()
    except ExpectedResultsError as error:
        if not is_said_by_another(error, str(error)):
            with suppress(OSError):  # nobody may be there to read it
                typer.echo(printable(f"error: {error}"), err=True)
        raise typer.Exit(EXIT_EXPECTATION_MISSED) from error

"""detengine show: samples of a data set."""

import re
from collections.abc import Sequence
from pathlib import Path

import typer

from detengine.config.load import load_config
from detengine.showing import Choice, show


def show_dataset(
    name: str,
    config_file: Path,
    overrides: Sequence[str],
    *,
    count: int,
    draws: int,
    seed: int | None,
    images: str | None,
    output_dir: Path | None,
) -> None:
    """Write the pictures and the page, and say where they are."""
    choice = Choice(count, draws, seed, _read_ids(images) if images is not None else ())
    folder = output_dir or Path("show-" + re.sub(r"[^A-Za-z0-9._-]", "_", name))
    page = show(load_config(config_file, overrides), name, choice, folder)
    typer.echo(f"wrote {page}; the pictures are in {folder / 'pictures'}")


def _read_ids(given: str) -> list[int]:
    ids = [each.strip() for each in given.split(",")]
    if not all(re.fullmatch(r"-?\d+", each) for each in ids):
        raise typer.BadParameter(f"--images is {given!r}; expected image ids, such as 3,17")
    return [int(each) for each in ids]

"""detengine show: samples of a data set."""

import re
from collections.abc import Sequence
from pathlib import Path

import typer

from detengine.cli.data_source import data_set_named, open_source
from detengine.showing import Choice, show


def show_dataset(
    name: str,
    config_file: Path | None,
    data_folder: Path | None,
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
    cfg = open_source(config_file, data_folder, overrides).cfg
    if data_folder is not None:
        name = data_set_named(cfg, name)
    folder = output_dir or Path("show-" + re.sub(r"[^A-Za-z0-9._-]", "_", name))
    page = show(cfg, name, choice, folder)
    typer.echo(f"wrote {page}; the pictures are in {folder / 'pictures'}")


def _read_ids(given: str) -> list[int]:
    ids = [each.strip() for each in given.split(",")]
    if not all(re.fullmatch(r"-?\d+", each) for each in ids):
        raise typer.BadParameter(f"--images is {given!r}; expected image ids, such as 3,17")
    return [int(each) for each in ids]

"""detengine train --data: a folder in, a trained detector and the recipe it was trained by out."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import typer

from detengine.choosing.configuration import FILE_NAME, Chosen, configuration_for
from detengine.cli.train import train_and_end
from detengine.config.load import load_config, parse_config
from detengine.config.schema import Config
from detengine.disk.writing import write_text
from detengine.distributed.comm import broadcast, is_main_process
from detengine.distributed.launch import start_distributed
from detengine.output_folder import free_folder, last_folder, prepare_output_folder
from detengine.untrusted.text import printable

RUNS = "runs"
_OUTPUT = "OUTPUT_DIR"
_ROOT = "DATASETS.ROOT"


def train_on_folder(
    data: Path,
    overrides: Sequence[str],
    output_dir: Path | None,
    *,
    weights: str | None,
    resume: bool,
    skip_test: bool,
) -> None:
    """Choose a configuration for the folder, keep it in the output folder, and train by it.

    Called by all ranks, which train by rank 0's choice. output_dir: None for the first free of
    runs/<name of the folder>, runs/<name>-2, ...; with resume, the last one that is there. resume:
    what was chosen for the run that is there is used again. Ends as `train_and_end` does.
    """
    pairs, output_dir = _without_output(overrides, output_dir)
    start_distributed(dict(zip(pairs[::2], pairs[1::2], strict=False)).get("MODEL.DEVICE", "auto"))
    folder = broadcast(output_dir or _usual_folder(data, resume=resume))
    recipe = folder / FILE_NAME
    if resume and broadcast(recipe.is_file()):
        _say(f"Going on by {recipe}, as it was chosen.\n")
        cfg = load_config(recipe, [_OUTPUT, str(folder), _ROOT, str(data), *pairs])
    else:
        _say(f"Looking at {data}, and for weights to start from ...\n")
        chosen = configuration_for(data, weights=weights, overrides=pairs, output_dir=folder)
        prepare_output_folder(folder, resume=resume)
        cfg = _keep(chosen, recipe)
    speaks = is_main_process()  # asked here, as the ranks are no group any more at the end
    train_and_end(cfg, resume=resume, skip_test=skip_test)
    if speaks:
        typer.echo(f"\nTo use it: detengine predict {shlex.quote(str(folder))} PICTURES")


def show_chosen(data: Path, overrides: Sequence[str], *, weights: str | None) -> None:
    """Print the configuration that would be chosen, as the text of a file."""
    print(configuration_for(data, weights=weights, overrides=overrides).text, end="")


def _without_output(
    overrides: Sequence[str], output_dir: Path | None
) -> tuple[list[str], Path | None]:
    """The pairs without OUTPUT_DIR, and its value, which wins over --output-dir."""
    pairs = list(overrides)
    while _OUTPUT in pairs[:-1:2]:
        at = pairs[:-1:2].index(_OUTPUT) * 2
        output_dir = Path(pairs[at + 1])
        del pairs[at : at + 2]
    return pairs, output_dir


def _usual_folder(data: Path, *, resume: bool) -> Path:
    name = f"{RUNS}/{data.resolve().name or 'data'}"
    return last_folder(name) if resume else free_folder(name)


def _keep(chosen: Chosen, recipe: Path) -> Config:
    """Write down what was chosen. Each rank chose, as they look for weights together; rank 0's
    choice counts."""
    text = broadcast(chosen.text)
    if is_main_process():
        write_text(recipe, text)
    _say_what_was_chosen(chosen, recipe)
    return parse_config(text, source=str(recipe))


def _say_what_was_chosen(chosen: Chosen, recipe: Path) -> None:
    name = shlex.quote(str(recipe))
    _say("\n".join(printable(each, keep="") for each in chosen.summary))
    if chosen.warning and is_main_process():
        warning = "\n".join(printable(each) for each in chosen.warning)
        typer.secho(f"\n{warning}", fg=typer.colors.YELLOW, err=True)
    _say(
        f"\nAll of it, with the reasons: {name}\n"
        f"To change it and train anew: detengine train -c {name} --output-dir {RUNS}/NAME\n"
    )


def _say(text: str) -> None:
    if is_main_process():
        typer.echo(text)

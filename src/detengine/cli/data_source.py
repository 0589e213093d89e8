"""Where `doctor` and `show` have a run's configuration from: a file, or a folder of data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from detengine.choosing.chosen_data import definitions_of
from detengine.choosing.configuration import configuration_for
from detengine.config.load import load_config
from detengine.config.schema import Config
from detengine.data.recognition import recognise


@dataclass(frozen=True)
class RunSource:
    """cfg: of the run. refusal: why no model could be chosen for a folder; the data sets are there
    all the same. remarks: lines on what was chosen, and on what would be better."""

    cfg: Config
    refusal: Exception | None = None
    summary: tuple[str, ...] = ()
    warning: tuple[str, ...] = ()


def open_source(
    config_file: Path | None,
    folder: Path | None,
    overrides: Sequence[str],
    *,
    weights: str | None = None,
) -> RunSource:
    """The configuration of a file, or that which `train --data` would choose for a folder.

    Nothing is downloaded, but weights that are named. Raises a usage error unless it is one of the
    two, and ValueError or OSError where there is no configuration, or nothing is recognised in the
    folder.
    """
    if (config_file is None) == (folder is None):
        raise typer.BadParameter("Give the run: -c FILE, or a folder of data, --data DIR.")
    if weights is not None and folder is None:
        raise typer.BadParameter("--weights is for --data; with -c set MODEL.WEIGHT.")
    if folder is None:
        return RunSource(load_config(config_file, overrides))
    try:
        chosen = configuration_for(
            folder,
            weights=weights,
            overrides=overrides,
            output_dir=Path("runs") / folder.resolve().name,
            may_download=False,
        )
    except (ValueError, OSError) as refusal:
        keys = definitions_of(recognise(folder))
        draft = [word for pair in keys.items() for word in pair]
        cfg = load_config(None, ["CONVENTIONS", "modern", *draft, *overrides])
        return RunSource(cfg, refusal)
    return RunSource(chosen.cfg, None, chosen.summary, chosen.warning)


def data_set_named(cfg: Config, name: str) -> str:
    """The data set; of a folder's, `train`, `val` and `test` are short for the first of each."""
    if name in cfg.DATASETS.DEFINE:
        return name
    return next((each for each in cfg.DATASETS.DEFINE if each.endswith(f"_{name}")), name)

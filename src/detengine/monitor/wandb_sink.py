"""A run's numbers and pictures for Weights & Biases."""

import logging
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from detengine.disk.writing import write_text

logger = logging.getLogger("detengine.monitor")

RUN_ID = "wandb_run_id"
_PROJECT = "detengine"


class WandbSink:
    """The run of this folder at W&B, under one id however often it is resumed.

    wandb's own variables say where to (WANDB_PROJECT, by default `detengine`; WANDB_ENTITY) and
    whether (WANDB_MODE: online, offline, disabled). Its files lie in the folder's `wandb`.
    W&B's own step only grows, and what a resumed run repeats would be dropped; so every write is a
    row of its own, and all are drawn over its `iteration`.
    """

    def __init__(self, folder: Path, finished_iterations: int, config: Mapping[str, Any]) -> None:
        for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            os.environ.setdefault(name, str(folder / "wandb"))  # else they are in the home
        try:
            self._run = wandb.init(
                id=run_id_of(folder, finished_iterations),
                resume="allow",
                project=os.environ.get("WANDB_PROJECT", _PROJECT),
                name=folder.resolve().name,
                dir=str(folder),
                config=dict(config),
                # what is written on a terminal is in log.txt, and is the view's there
                settings=wandb.Settings(console="off", quiet=True, disable_git=True),
            )
        except wandb.Error as error:
            raise ConnectionError(
                f"SINKS names wandb, but no run could be begun there: {error}\nLog in by `wandb "
                "login`; or set WANDB_MODE=offline, which keeps the run in the output folder for "
                "`wandb sync`; or take wandb out of SINKS."
            ) from error
        self._run.define_metric("iteration", hidden=True)
        self._run.define_metric("*", step_metric="iteration")

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self._run.log({"iteration": iteration, **metrics})

    def write_pictures(self, iteration: int, pictures: Mapping[str, Path]) -> None:
        images = {f"pictures/{name}": wandb.Image(str(path)) for name, path in pictures.items()}
        self._run.log({"iteration": iteration, **images})

    def close(self) -> None:
        failed = sys.exc_info()[0] is not None  # closed by an error on its way out
        self._run.finish(exit_code=1 if failed else 0)


def open_sink(folder: Path, finished_iterations: int, config: Mapping[str, Any]) -> WandbSink:
    """The sink of a run."""
    return WandbSink(folder, finished_iterations, config)


def run_id_of(folder: Path, finished_iterations: int) -> str:
    """The id that the folder's run has at W&B; a new one, kept there, where a run begins."""
    path = folder / RUN_ID
    if finished_iterations and path.is_file():
        return path.read_text(encoding="utf-8").strip()
    run_id = secrets.token_hex(4)
    write_text(path, run_id + "\n")
    return run_id

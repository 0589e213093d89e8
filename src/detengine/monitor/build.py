"""Where a run's numbers go, and what somebody sees of it, from the configuration."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from detengine.config.load import recordable
from detengine.config.schema import Config
from detengine.distributed.comm import is_main_process
from detengine.monitor.progress import is_watched
from detengine.monitor.sinks import METRICS, JsonlSink, OptionalSink, Sink, evaluations_in

LoaderT = TypeVar("LoaderT")

OPTIONAL_SINKS: Mapping[str, str] = {
    "tensorboard": "detengine.monitor.tensorboard_sink",
    "wandb": "detengine.monitor.wandb_sink",
}
"""By the name in SINKS, which is the package's and the extra's, the file with its `open_sink`.

A further one is a file, a line here and its name in the schema.
"""


def raise_if_not_installed(cfg: Config) -> None:
    """Before anything is read, look for the packages of SINKS. Raises ModuleNotFoundError."""
    for name in cfg.SINKS:
        if find_spec(name) is None:
            raise ModuleNotFoundError(
                f"SINKS is {cfg.SINKS}, but the package {name} is not installed: pip install "
                f"'detengine[{name}]', or take {name} out of SINKS"
            )


@contextmanager
def watching(
    cfg: Config, loader: LoaderT, folder: Path, finished_iterations: int
) -> Iterator[tuple[LoaderT, list[Sink]]]:
    """The training's loader, and its sinks; on ranks but the first the loader alone.

    The sinks are `metrics.jsonl` and those of SINKS, which go on behind so many iterations; where
    somebody watches, also a view of the training, which the loader moves on. They are closed with
    the block, whatever ends it.
    """
    if not is_main_process():
        yield loader, []
        return
    with ExitStack() as stack:
        sinks = open_sinks(cfg, folder, finished_iterations, stack)
        if is_watched():
            from detengine.monitor.training_view import TrainingView

            solver = cfg.SOLVER
            view = TrainingView(
                solver.MAX_ITER, finished_iterations, solver.IMS_PER_BATCH, solver.BEST_METRIC
            )
            for iteration, scores in evaluations_in(folder / METRICS):
                view.remember(iteration, scores)
            stack.enter_context(view.shown())
            loader, sinks = view.follow(loader, solver.ACCUMULATE), [*sinks, view]
        yield loader, sinks


def open_sinks(cfg: Config, folder: Path, finished_iterations: int, stack: ExitStack) -> list[Sink]:
    """All but the view. stack: what closes them."""
    sinks: list[Sink] = [
        stack.enter_context(closing(JsonlSink(folder / METRICS, finished_iterations)))
    ]
    for name in dict.fromkeys(cfg.SINKS):
        open_sink = import_module(OPTIONAL_SINKS[name]).open_sink
        sink = open_sink(folder, finished_iterations, recordable(cfg))
        sinks.append(stack.enter_context(closing(OptionalSink(name, sink))))
    return sinks

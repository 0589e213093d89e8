"""Saves a run and goes on with it, or initialises a model from named weights; never both."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from detengine.checkpoint import entries, history
from detengine.checkpoint.align import compare_classes, load_weights, unwrapped
from detengine.checkpoint.background import BackgroundWork
from detengine.checkpoint.catalog import find_source, find_weights
from detengine.checkpoint.classes import ClassNames
from detengine.checkpoint.conventions import conventions_check
from detengine.checkpoint.conversion import Conventions
from detengine.checkpoint.files import raise_if_not_plain, save_file
from detengine.checkpoint.readers import read_file
from detengine.checkpoint.snapshot import snapshot
from detengine.checkpoint.together import raise_on_all_ranks, read_newest_on_all_ranks
from detengine.config.load import to_yaml
from detengine.config.resuming import raise_if_another_run
from detengine.distributed import comm
from detengine.untrusted.addresses import without_secrets

if TYPE_CHECKING:
    from detengine.config.schema import Config


class Stateful(Protocol):
    """What a checkpoint keeps beside the model: an optimizer, a schedule, a precision, an EMA."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Any, /) -> None: ...


class Checkpointer:
    """Writes `NAME.pth` into save_dir and names the newest in `last_checkpoint`.

    A file holds `{format, model, optimizer, scheduler, precision, ema, categories, config}`, None
    for what there is not, and the arguments of `save`. The model's names are those of the user's
    own module, whatever wraps it. save_dir is made if need be; "" saves nothing. save_to_disk:
    whether this rank writes; None is rank 0 only. class_names: of labels 1, 2, ...; config: the
    run's, as YAML. background: whether `save` returns as soon as all tensors are copied to host
    memory, and a thread writes; the files are the same. keep_last: how many of the numbered
    checkpoints (`model_0002500`) stay, the newest; None is all.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Stateful | None = None,
        scheduler: Stateful | None = None,
        save_dir: str | Path = "",
        save_to_disk: bool | None = None,
        logger: logging.Logger | None = None,
        *,
        precision: Stateful | None = None,
        ema: Stateful | None = None,
        class_names: Sequence[str] = (),
        config: str = "",
        background: bool = False,
        keep_last: int | None = None,
    ) -> None:
        if keep_last is not None and keep_last < 1:
            raise ValueError(f"keep_last is {keep_last}; expected 1 or more, or None to keep all")
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.precision = precision
        self.ema = ema
        self.save_dir = Path(save_dir) if save_dir else None
        self.save_to_disk = comm.is_main_process() if save_to_disk is None else save_to_disk
        if self.save_dir is not None and self.save_to_disk:
            self.save_dir.mkdir(parents=True, exist_ok=True)  # now, and not after hours of training
        self.logger = logger or logging.getLogger("detengine.checkpoint")
        self.class_names = list(class_names)
        self.config = config
        self.background = background
        self.keep_last = keep_last
        self._writing = BackgroundWork()
        self.seconds = 0.0
        """What saving and waiting took of the caller's time so far."""
        self.resumed_from = ""
        """The name of the checkpoint that `resume` took, without its suffix; the same on all
        ranks."""

    def save(self, name: str, **arguments: Any) -> None:
        """Write NAME.pth with the arguments (iteration, seed, meters, ...), and make it the last.

        All ranks call it; if one cannot write, all raise. In the background one file is written at
        a time, and a failure is raised by the next `save` or `wait`; among several ranks, which
        `save` lets go on without a word to each other, by `wait` alone.
        Raises OSError with the folder and the cure, the last checkpoint being the one before;
        TypeError for an argument that is not plain or has the name of an entry of ours.
        """
        with self._counted():
            self._save(name, arguments, is_last=True)

    def save_best(self, **arguments: Any) -> None:
        """Write model_best.pth as `save` does; `resume` takes it where nothing else is left."""
        with self._counted():
            self._save(history.BEST, arguments, is_last=False)

    def problem(self) -> Exception | None:
        """What the writing in the background failed with on this rank, if it did.

        It does not wait, and does not talk to other ranks.
        """
        return self._writing.problem

    def wait(self) -> None:
        """Wait until what was saved is on disk; all ranks call it, and raise if one has failed."""
        with self._counted():
            self._wait()

    def _wait(self) -> None:
        self._writing.join()
        raise_on_all_ranks(self._writing.take_problem(), "could not save")

    @contextmanager
    def _counted(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start

    def has_checkpoint(self) -> bool:
        """Whether save_dir holds a run that can be resumed."""
        self._writing.join()
        return self.save_dir is not None and history.has_checkpoint(self.save_dir)

    def get_checkpoint_file(self) -> Path:
        """The newest checkpoint of save_dir. Raises FileNotFoundError if there is none."""
        self._writing.join()
        newest = None if self.save_dir is None else next(history.candidates(self.save_dir), None)
        if newest is None:
            raise history.no_run(self.save_dir)
        return newest

    def tag_last_checkpoint(self, name: str) -> None:
        """Make a file of save_dir the one that `resume` takes. name: relative, with its .pth."""
        if self.save_dir is not None:
            history.write_last(self.save_dir, Path(name).name)

    def resume(self) -> dict[str, Any]:
        """Take everything from the last checkpoint: model, optimizer, schedule, precision, EMA.

        A damaged one is named in a warning, and the one before it is taken. Returns the arguments
        that were saved with it. All ranks call it, and take the same file. Raises ValueError where
        the file does not fit what is here, or lacks the state of something that is here, or no
        file is whole; ConfigError where the run was started with another configuration.
        """
        self._writing.join()
        path, data = read_newest_on_all_ranks(self.save_dir)
        self.logger.info("resuming from %s", path)
        self._raise_if_not_this_run(path, data)
        self._load_model(path, data, data["model"], strict=True)
        for part, owner in self._stateful().items():
            try:
                owner.load_state_dict(data[part])
            except (ValueError, KeyError) as error:
                raise ValueError(
                    f"the {part} in {path} does not fit this run's: {error}. Resume with the "
                    "configuration that the run was started with (config.yaml beside it)."
                ) from error
        self.resumed_from = path.stem
        return {name: value for name, value in data.items() if name not in entries.OWN_ENTRIES}

    def load(
        self, path: str | Path, *, use_ema: bool = True, strict: bool = True
    ) -> dict[str, Any]:
        """Initialise the model's weights, and nothing else, from a file of any known format.

        path: of the file, or what `find_weights` takes beside it, an address or a catalog's name.
        use_ema: take the averaged weights where the file has them. strict: every tensor and every
        class must be the same on both sides, as evaluation needs it; otherwise what fits is taken,
        of heads for other classes the rows of those that both have, and what does not is said and
        stays as it was initialised, as training from other weights needs it.
        Returns the file's other entries, without the states. Raises as `find_weights`, `read_file`,
        `load_weights` and `conventions_check` do. All ranks call it.
        """
        source = find_source(str(path))
        file = find_weights(str(path))
        self._writing.join()
        if self.background:
            comm.synchronize()  # the file may be one that rank 0 was writing
        data = entries.with_all_entries(file, read_file(file))
        averaged = data["ema"] if use_ema else None
        weights = averaged["weights"] if averaged else data["model"]
        which = "averaged weights (EMA)" if averaged else "weights"
        self.logger.info("loading the %s of %s", which, without_secrets(str(path)))
        if source is not None and not data["categories"]:
            data["categories"] = list(source.class_names)
        known = None if source is None else source.conventions
        self._load_model(file, data, weights, strict=strict, known=known)
        return {name: data[name] for name in data if name not in ("model", *entries.STATES)}

    def _save(self, name: str, arguments: dict[str, Any], *, is_last: bool) -> None:
        if self.save_dir is None:
            return
        history.raise_if_no_file_name(name)
        self._writing.join()
        has_started = False
        if self.save_to_disk and self.problem() is None:
            data = self._writing.attempt(partial(self._snapshot, arguments))
            if data is not None:
                do = self._writing.start if self.background else self._writing.attempt
                do(partial(self._write, self.save_dir / f"{name}.pth", data, is_last))
                has_started = self.background
        if not has_started and not (self.background and comm.is_distributed()):
            self._wait()

    def _snapshot(self, arguments: dict[str, Any]) -> dict[str, Any]:
        data = self._entries(arguments)
        raise_if_not_plain(data)
        return snapshot(data, clone=self.background)

    def _entries(self, arguments: dict[str, Any]) -> dict[str, Any]:
        entries.raise_if_argument_is_entry(arguments)
        states = {part: owner.state_dict() for part, owner in self._stateful().items()}
        return {
            "format": entries.FORMAT,
            "model": dict(unwrapped(self.model).state_dict()),
            **dict.fromkeys(entries.STATES),
            **states,
            **arguments,
            "world_size": comm.get_world_size(),  # not that of the run that was resumed
            "categories": self.class_names,
            "config": self.config,
        }

    def _write(self, path: Path, data: dict[str, Any], is_last: bool) -> None:
        history.remove_leftovers(path.parent)
        save_file(path, data)
        if is_last:
            history.write_last(path.parent, path.name)
            if self.keep_last is not None:
                history.remove_older(path.parent, self.keep_last, saved=path)
        self.logger.info("saved %s", path)

    def _stateful(self) -> dict[str, Stateful]:
        """Those of optimizer, scheduler, precision and ema that this run has."""
        owners = {part: getattr(self, part) for part in entries.STATES}
        return {part: owner for part, owner in owners.items() if owner is not None}

    def _raise_if_not_this_run(self, path: Path, data: dict[str, Any]) -> None:
        entries.raise_if_no_run(path, data)
        if data["config"] and self.config:
            for line in raise_if_another_run(data["config"], self.config, str(path)):
                self.logger.warning("%s", line)
        here = self._stateful().keys()
        entries.raise_if_states_missing(path, data, here)
        if surplus := sorted(entries.states_in(data) - here):
            self.logger.warning("not taken over: %s, which this run has not", surplus)

    def _load_model(
        self, path: Path, data: dict[str, Any], weights: Any, *, strict: bool,
        known: Conventions | None = None,
    ) -> None:  # fmt: skip
        """known: what the file's address tells of the weights."""
        classes = compare_classes(self.class_names, data["categories"])
        if classes and strict:
            raise ValueError(
                f"{path} was trained for other classes, so its labels mean something else."
                f"\n{classes}\nGive the file's classes, in its order, under DATASETS.CLASSES."
            )
        alignment = load_weights(
            self.model,
            weights,
            source=str(path),
            strict=strict,
            class_names=ClassNames(self.class_names, data["categories"]) if classes else None,
            check=conventions_check(
                str(path), known, file_config=data.get("config") or "", config=self.config
            ),
        )
        if classes or not alignment.fills_whole_parts:
            table = "" if alignment.class_rows.merged else classes
            self.logger.warning("%s", "\n".join(filter(None, [alignment.report(), table])))
        elif alignment.missing or alignment.conversion.format:
            self.logger.info("%s", alignment.summary())


class DetectronCheckpointer(Checkpointer):
    """A Checkpointer that keeps the configuration it is given, under the predecessor's name."""

    def __init__(
        self,
        cfg: "Config",
        model: nn.Module,
        optimizer: Stateful | None = None,
        scheduler: Stateful | None = None,
        save_dir: str | Path = "",
        save_to_disk: bool | None = None,
        logger: logging.Logger | None = None,
        *,
        precision: Stateful | None = None,
        ema: Stateful | None = None,
        class_names: Sequence[str] = (),
        background: bool = False,
    ) -> None:
        super().__init__(
            model,
            optimizer,
            scheduler,
            save_dir,
            save_to_disk,
            logger,
            precision=precision,
            ema=ema,
            class_names=class_names,
            config=to_yaml(cfg),
            background=background,
            keep_last=cfg.SOLVER.KEEP_CHECKPOINTS,
        )

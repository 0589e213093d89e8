"""Saves a run and goes on with it, or initialises a model from named weights; never both."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from detengine.checkpoint.align import compare_classes, load_weights, unwrapped
from detengine.checkpoint.catalog import find_weights
from detengine.checkpoint.files import save_file, write_text
from detengine.checkpoint.readers import read_file
from detengine.config.load import to_yaml
from detengine.distributed import comm

if TYPE_CHECKING:
    from detengine.config.schema import Config

FORMAT = 1
_STATES = ("optimizer", "scheduler", "precision", "ema")
_OWN_ENTRIES = ("format", "model", *_STATES, "categories", "config")


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
    run's, as YAML.
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
    ) -> None:
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

    def save(self, name: str, **arguments: Any) -> None:
        """Write NAME.pth with the arguments (iteration, seed, meters, ...), and make it the last.

        All ranks call it; if one cannot write, all raise. Raises OSError with the folder and the
        cure, TypeError for an argument that is not plain or has the name of an entry of ours.
        """
        if self.save_dir is None:
            return
        problem: Exception | None = None
        if self.save_to_disk:
            try:
                self._write(self.save_dir, name, arguments)
            except Exception as error:  # raised below, when all ranks know
                problem = error
        problems = comm.all_gather("" if problem is None else str(problem))
        if problem is not None:
            raise problem
        for rank, message in enumerate(problems):
            if message:
                raise RuntimeError(f"rank {rank} could not save {name}: {message}")

    def has_checkpoint(self) -> bool:
        """Whether save_dir holds a run that can be resumed."""
        return self.save_dir is not None and (self.save_dir / "last_checkpoint").is_file()

    def get_checkpoint_file(self) -> Path:
        """The newest checkpoint of save_dir. Raises FileNotFoundError if there is none."""
        if self.save_dir is None or not self.has_checkpoint():
            raise FileNotFoundError(
                f"there is no run to resume in {self.save_dir or 'no folder at all'}: it holds no "
                "last_checkpoint. Start it without --resume, or set its OUTPUT_DIR."
            )
        return self.save_dir / (self.save_dir / "last_checkpoint").read_text().strip()

    def tag_last_checkpoint(self, name: str) -> None:
        """Make a file of save_dir the one that `resume` takes. name: relative, with its .pth."""
        if self.save_dir is not None:
            write_text(self.save_dir / "last_checkpoint", f"{Path(name).name}\n")

    def resume(self) -> dict[str, Any]:
        """Take everything from the last checkpoint: model, optimizer, schedule, precision, EMA.

        Returns the arguments that were saved with it. All ranks call it. Raises ValueError where
        the file does not fit what is here, or lacks the state of something that is here.
        """
        path = self.get_checkpoint_file()
        data = self._read(path)
        if "format" not in data:
            raise ValueError(
                f"{path} was not written by detengine, so a run cannot go on from it. To start a "
                "new run from its weights, name it as MODEL.WEIGHT and set another OUTPUT_DIR."
            )
        self.logger.info("resuming from %s", path)
        self._raise_if_states_missing(path, data)
        self._load_model(path, data, data["model"], strict=True)
        for part, owner in self._stateful().items():
            try:
                owner.load_state_dict(data[part])
            except (ValueError, KeyError) as error:
                raise ValueError(
                    f"the {part} in {path} does not fit this run's: {error}. Resume with the "
                    "configuration that the run was started with (config.yaml beside it)."
                ) from error
        return {name: value for name, value in data.items() if name not in _OWN_ENTRIES}

    def load(
        self, path: str | Path, *, use_ema: bool = True, strict: bool = True
    ) -> dict[str, Any]:
        """Initialise the model's weights, and nothing else, from a file of any known format.

        path: of the file, or what `find_weights` takes beside it, an address or a catalog's name.
        use_ema: take the averaged weights where the file has them. strict: every tensor and every
        class must be the same on both sides, as evaluation needs it; otherwise what fits is taken,
        and what does not is said and stays as it was initialised, as training from other weights
        needs it (a head for other classes, an ImageNet trunk without heads).
        Returns the file's other entries, without the states. Raises as `find_weights`, `read_file`
        and `load_weights` do. All ranks call it.
        """
        file = find_weights(str(path))
        data = self._read(file)
        averaged = data["ema"] if use_ema else None
        weights = averaged["weights"] if averaged else data["model"]
        which = "averaged weights (EMA)" if averaged else "weights"
        self.logger.info("loading the %s of %s", which, path)
        self._load_model(file, data, weights, strict=strict)
        return {name: data[name] for name in data if name not in ("model", *_STATES)}

    def _write(self, folder: Path, name: str, arguments: dict[str, Any]) -> None:
        doubled = sorted(arguments.keys() & set(_OWN_ENTRIES))
        if doubled:
            raise TypeError(f"{', '.join(doubled)} cannot be arguments: they are entries of ours")
        states = {part: owner.state_dict() for part, owner in self._stateful().items()}
        data = {
            "format": FORMAT,
            "model": dict(unwrapped(self.model).state_dict()),
            **dict.fromkeys(_STATES),
            **states,
            **arguments,
            "world_size": comm.get_world_size(),  # not that of the run that was resumed
            "categories": self.class_names,
            "config": self.config,
        }
        path = folder / f"{name}.pth"
        save_file(path, data)
        self.tag_last_checkpoint(path.name)
        self.logger.info("saved %s", path)

    def _stateful(self) -> dict[str, Stateful]:
        """Those of optimizer, scheduler, precision and ema that this run has."""
        owners = {part: getattr(self, part) for part in _STATES}
        return {part: owner for part, owner in owners.items() if owner is not None}

    def _read(self, path: Path) -> dict[str, Any]:
        """All entries of a file; those that a foreign one lacks are None, or no classes."""
        data = {**dict.fromkeys(_STATES), "categories": [], **read_file(path)}
        if "format" in data and data["format"] != FORMAT:
            raise ValueError(
                f"{path} has the checkpoint format {data['format']}; this detengine reads format "
                f"{FORMAT}. It was written by another version: use that one, or update."
            )
        return data

    def _raise_if_states_missing(self, path: Path, data: dict[str, Any]) -> None:
        here = self._stateful().keys()
        there = {part for part in _STATES if data[part] is not None}
        if here - there:
            raise ValueError(
                f"{path} holds no {', no '.join(sorted(here - there))}, so this run cannot go on "
                "from it. To start a new run from its weights, name it as MODEL.WEIGHT and set "
                "another OUTPUT_DIR."
            )
        if there - here:
            self.logger.warning("not taken over: %s, which this run has not", sorted(there - here))

    def _load_model(self, path: Path, data: dict[str, Any], weights: Any, *, strict: bool) -> None:
        classes = compare_classes(self.class_names, data["categories"])
        if classes and strict:
            raise ValueError(
                f"{path} was trained for other classes, so its labels mean something else."
                f"\n{classes}\nGive the file's classes, in its order, under DATASETS.CLASSES."
            )
        alignment = load_weights(self.model, weights, source=str(path), strict=strict)
        if classes or not alignment.fills_whole_parts:
            self.logger.warning("%s", "\n".join(filter(None, [alignment.report(), classes])))
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
        )

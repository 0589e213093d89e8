"""A step that was not finite, repeated from its record: `detengine train --replay`."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch

from detengine.checkpoint.entries import STATES, with_all_entries
from detengine.checkpoint.files import load_file
from detengine.config.load import replace
from detengine.config.schema import Config
from detengine.data.build import make_training_loader
from detengine.data.dataset import DetectionDataset
from detengine.distributed.launch import resolve_device
from detengine.distributed.report import launched_rank
from detengine.engine.determinism import deterministic
from detengine.engine.nonfinite_record import WEIGHTS_SUFFIX, NonFiniteRecord, read_record
from detengine.engine.replay import RankWindows, describe_replay, repeat_step, train_quietly
from detengine.engine.trainer import windows
from detengine.monitor.timer import Stages
from detengine.parts import Parts, build_parts
from detengine.start import start_or_resume


def replay(cfg: Config, record_file: str | Path) -> str:
    """Repeat the step of a record in this process; what it shows, as text. Nothing is written.

    The weights are those that the run left beside the record; without them, those of its newest
    checkpoint before the step, trained on to it. Raises ValueError where the record is not of a run
    with this configuration, or this is one of several ranks; else as `train` does.
    """
    path = Path(record_file)
    record = read_record(path)
    if launched_rank() is not None:
        raise ValueError(
            "--replay repeats all ranks' parts of a step in one process; start it without torchrun"
        )
    _raise_if_another_run(cfg, record, path)
    cfg = replace(cfg, {"SOLVER.ACCUMULATE": record.accumulate})
    device = resolve_device(cfg.MODEL.DEVICE)
    with deterministic(device, enabled=cfg.DETERMINISTIC):
        parts = build_parts(cfg, path.parent, device, skip_test=True, stages=Stages())
        start_iter, origin = _load_weights(parts, record, path)
        steps = _steps_of(parts, record, start_iter)
        before = islice(steps, record.iteration - 1 - start_iter)
        train_quietly(
            parts.model, before, parts.optimizer, parts.scheduler, device,
            precision=parts.precision, seed=cfg.SEED, start_iter=start_iter,
            clip_norm=cfg.SOLVER.CLIP_NORM,
        )  # fmt: skip
        step = next(steps)
        _raise_if_other_images(record, step, path)
        shown = repeat_step(
            parts.model, step, device, dtype=cfg.DTYPE, seed=cfg.SEED, iteration=record.iteration
        )
    title = f"iteration {record.iteration} of {path.parent}, lr {record.lr:.3g}, on {device}"
    names = describe_replay(record, shown, lambda image_id: _named(parts.datasets, image_id))
    return f"{title}, with {origin}\n{names}"


def _raise_if_another_run(cfg: Config, record: NonFiniteRecord, path: Path) -> None:
    expected = {
        "SEED": (record.seed, cfg.SEED),
        "SOLVER.IMS_PER_BATCH": (record.images, cfg.SOLVER.IMS_PER_BATCH),
        "DTYPE": (record.dtype, cfg.DTYPE),
    }
    for key, (was, given) in expected.items():
        if was != given:
            raise ValueError(
                f"{path} is of a run with {key} {was}, but the configuration says {given}. Give "
                "the configuration of that run (config.yaml beside the record)."
            )
    if record.iteration > cfg.SOLVER.MAX_ITER:
        raise ValueError(
            f"{path} is of iteration {record.iteration}, but SOLVER.MAX_ITER is "
            f"{cfg.SOLVER.MAX_ITER}. Give the configuration of that run (config.yaml beside the "
            "record)."
        )


def _load_weights(parts: Parts, record: NonFiniteRecord, path: Path) -> tuple[int, str]:
    """Load what the step, or the steps up to it, began with; after how many iterations, and what.

    Raises ValueError if it does not fit the model.
    """
    weights = path.with_suffix(WEIGHTS_SUFFIX)
    try:
        if weights.is_file():
            parts.model.load_state_dict(load_file(weights)["model"])
            return record.iteration - 1, f"the weights of {weights.name}"
        start_iter, origin = _newest_before(record.iteration, parts, path.parent)
    except (RuntimeError, KeyError) as error:  # load_state_dict's, for names and shapes
        raise ValueError(
            f"the weights in {path.parent} are not of this configuration's model: {error}. Give "
            "the configuration of that run (config.yaml beside the record)."
        ) from error
    if start_iter == record.iteration - 1:
        return start_iter, origin
    origin = f"{origin}, trained on to it"
    if record.world_size > 1:
        origin += f" (but for rounding: {record.world_size} ranks in one process)"
    return start_iter, origin


def _newest_before(iteration: int, parts: Parts, folder: Path) -> tuple[int, str]:
    """Everything of the last checkpoint with fewer iterations; without one, the run's beginning."""
    names = {path.stem.removeprefix("model_"): path for path in folder.glob("model_*.pth")}
    of_iteration = {int(name): path for name, path in names.items() if name.isdecimal()}
    done = max((number for number in of_iteration if number < iteration), default=None)
    if done is None:
        start_or_resume(
            parts.cfg, parts.checkpointer, folder, parts.datasets, ema=None, resume=False
        )
        return 0, "the weights of the run's beginning"
    file = of_iteration[done]
    data = with_all_entries(file, load_file(file))
    parts.model.load_state_dict(data["model"])
    for name in STATES:
        owner = getattr(parts, name)
        if owner is not None:
            owner.load_state_dict(data[name])
    return done, f"the weights of {file.name}"


def _steps_of(parts: Parts, record: NonFiniteRecord, start_iter: int) -> Iterator[RankWindows]:
    """The batches of the steps after start_iter, of all the record's ranks."""
    cfg = parts.cfg
    if start_iter == record.iteration - 1:
        cfg = replace(cfg, {"DATALOADER.NUM_WORKERS": 0})  # for a single step
    loaders = [
        make_training_loader(
            cfg, parts.datasets, start_iter, rank=rank, world_size=record.world_size
        )
        for rank in range(record.world_size)
    ]
    device = next(parts.model.parameters()).device
    of_ranks = [windows(loader, record.accumulate, device) for loader in loaders]
    return ([window for _, window in step] for step in zip(*of_ranks, strict=True))


def _raise_if_other_images(record: NonFiniteRecord, step: RankWindows, path: Path) -> None:
    for rank, (share, window) in enumerate(zip(record.ranks, step, strict=True)):
        found = [list(batch.image_ids) for batch in window]
        if found != share.image_ids:
            raise ValueError(
                f"{path}: in iteration {record.iteration} rank {rank} had the images "
                f"{share.image_ids}, but here it has {found}: the data sets, or how they are put "
                "in order, are not the run's. Give the configuration of that run (config.yaml "
                "beside the record), and its data."
            )


def _named(datasets: Sequence[DetectionDataset], image_id: int) -> str:
    """The image's id, with its file; with all of them where several data sets have that id."""
    files = []
    for dataset in datasets:
        truth = dataset.ground_truth()
        at = torch.nonzero(truth.image_ids == image_id).flatten().tolist()
        files += [truth.file_name(index) for index in at]
    return f"image {image_id} ({' or '.join(files)})"

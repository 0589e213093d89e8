"""A few steps of a training, a batch of its scoring and a checkpoint, of which nothing stays."""

import gc
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detengine.checkpoint.catalog import find_kept
from detengine.checkpoint.files import load_file
from detengine.config.load import replace
from detengine.config.schema import Config
from detengine.data.build import build_transforms, make_evaluation_loader, make_training_loader
from detengine.data.collate import collate
from detengine.data.dataset import DetectionDataset, TrainingData
from detengine.data.largest_batch import dearest_batches
from detengine.data.transforms import scales_of
from detengine.data.workers import stop_workers
from detengine.distributed.out_of_memory import is_out_of_memory
from detengine.doctor.dry_run_result import DryRun, DryStep
from detengine.doctor.room import available_memory, in_mib
from detengine.engine.inference import compute_on_dataset
from detengine.engine.model_mode import model_mode
from detengine.engine.nondeterminism import raise_if_not_deterministic
from detengine.engine.trainer import max_memory_mb, seed_iteration, train_step, windows
from detengine.monitor.logs import collected_warnings
from detengine.monitor.progress import track
from detengine.parts import Parts, assemble, with_views
from detengine.solver.precision import clear_gradients
from detengine.structures.batch import Batch
from detengine.structures.finding import Finding, finding_of_error

_STEPS = 3
_LOADER_SECONDS, _MOST_BATCHES = 5.0, 50
"""How long the loader is watched."""
_TIGHT = 0.9
"""The share of the GPU's memory from which on there is little room."""


class DryRunner:
    """Tries one thing after the other, whatever became of those before; `findings` is what failed.

    datasets: of images that can be read. folder: for a checkpoint, which is removed by its owner.
    ranks: how many processes the training will have, of which this is the first.
    """

    def __init__(
        self,
        cfg: Config,
        datasets: Sequence[DetectionDataset],
        test_sets: Sequence[DetectionDataset],
        *,
        device: torch.device,
        folder: Path,
        ranks: int = 1,
    ) -> None:
        self.cfg, self.datasets, self.test_sets = cfg, datasets, test_sets
        self.device, self.folder, self.ranks = device, folder, ranks
        self.findings: list[Finding] = []
        self._steps: list[DryStep] = []
        self._memory_before = max_memory_mb(device)

    def run(self) -> DryRun:
        """Build, load, step, score, save, load batches: whatever can be done is measured."""
        batch_bytes = checkpoint_bytes = rate = None
        with self._attempting("the model"):
            parts = assemble(self.cfg, self.folder, self.device, self.datasets, self.test_sets)
            self._load_weights(parts)
            with self._attempting("a training step"):
                self._first_steps(parts)
            with self._attempting("a training step"):
                batch_bytes = self._dearest_steps(parts)
            with self._attempting("a batch of DATASETS.TEST"):
                self._evaluation_batch(parts)
            with self._attempting("a checkpoint"):
                checkpoint_bytes = self._checkpoint(parts)
            del parts
        self._free()
        with self._attempting("the loader"):
            rate = self._loader_rate()
        steps = tuple(self._steps)
        return DryRun(str(self.device), steps, rate, checkpoint_bytes, batch_bytes)

    @contextmanager
    def _attempting(self, where: str) -> Iterator[None]:
        """Whatever goes wrong inside is a finding."""
        if self.findings:
            self._free()  # what a failed step has left
        try:
            yield
        except Exception as error:
            if is_out_of_memory(error):
                self.findings.append(self._out_of_memory(where, error))
            elif isinstance(error, ValueError | OSError | FloatingPointError | ImportError):
                self.findings.append(finding_of_error(error, where))
            else:
                what = f"{type(error).__name__}: {error}"
                cure = "`detengine --debug train` shows where it is raised."
                self.findings.append(Finding("error", where, what, cure))
            error.__traceback__ = None  # its frames hold the step's tensors

    def _out_of_memory(self, where: str, error: Exception) -> Finding:
        training = "Lower SOLVER.IMS_PER_BATCH or raise SOLVER.ACCUMULATE, make the images "
        training += "(INPUT.MAX_SIZE_TRAIN) or the model smaller, or set DTYPE to bfloat16."
        scoring = "Lower TEST.IMS_PER_BATCH or INPUT.MAX_SIZE_TEST."
        first_line = str(error).splitlines()[0] if str(error) else "MemoryError"
        cure = scoring if "TEST" in where else training
        return Finding("error", where, f"the memory is not enough: {first_line}", cure)

    def _free(self) -> None:
        """Give the GPU's memory back; a CPU's is free as soon as nobody has it any more."""
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

    def _load_weights(self, parts: Parts) -> None:
        name = self.cfg.MODEL.WEIGHT
        if not name:
            return
        with self._attempting("MODEL.WEIGHT"), collected_warnings("detengine.checkpoint") as said:
            if find_kept(name) is None:
                what = f"{name} is not on this machine: the training will fetch it first"
                self.findings.append(Finding("note", "MODEL.WEIGHT", what))
                return
            parts.checkpointer.load(name, strict=False)
        self.findings += [Finding("warning", "MODEL.WEIGHT", each) for each in said]

    def _first_steps(self, parts: Parts) -> None:
        cfg = replace(self.cfg, {"DATALOADER.NUM_WORKERS": 0})
        loader = make_training_loader(cfg, self.datasets, 0, rank=0, world_size=self.ranks)
        raise_if_not_deterministic(
            parts.model, loader, self.device, parts.precision, scored=bool(self.test_sets)
        )
        steps = windows(loader, cfg.SOLVER.ACCUMULATE, self.device)
        number = min(_STEPS, cfg.SOLVER.MAX_ITER)
        for iteration, window in track(islice(steps, number), "training steps", number):
            self._train(parts, window, f"step {iteration}", iteration)

    def _dearest_steps(self, parts: Parts) -> int:
        """Steps on the largest batch and on that with the most objects; the bytes of the images."""
        largest = {"INPUT.MIN_SIZE_TRAIN": (max(self.cfg.INPUT.MIN_SIZE_TRAIN),)}
        cfg = replace(self.cfg, largest)
        data = TrainingData(self.datasets, build_transforms(cfg, is_train=True), cfg.SEED)
        objects = torch.bincount(data.labels_trained_on()[0], minlength=len(data))
        number = cfg.SOLVER.IMS_PER_BATCH // (self.ranks * cfg.SOLVER.ACCUMULATE)
        found = dearest_batches(
            resized(cfg, data.image_sizes()),
            objects,
            max(1, number),
            by_shape=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        )
        batch_bytes = 0
        for dear in track(found, "the largest batches"):
            batch = collate([data[0, index] for index in dear.indices])
            batch_bytes = max(batch_bytes, sum(image.nbytes for image in batch.images))
            with self._attempting(f"a training step on the batch with {dear.why}"):
                self._raise_if_too_large(batch)
                self._train(parts, [batch.to(self.device)], dear.why, _STEPS + 1)
        return batch_bytes

    def _raise_if_too_large(self, batch: Batch) -> None:
        """On a CPU a process that takes too much is killed, and could not say so any more.

        What a step takes is estimated from those that were done, by its padded pixels. Raises
        MemoryError.
        """
        available = available_memory()
        if self.device.type != "cpu" or not self._steps or available is None:
            return
        done = max(self._steps, key=lambda each: each.images * math.prod(each.padded))
        sizes = [image.shape[-2:] for image in batch.images]
        pixels = len(sizes) * math.prod(max(side) for side in zip(*sizes, strict=True))
        more = pixels / (done.images * math.prod(done.padded)) - 1
        needed = int(more * max(0.0, done.memory_mb - self._memory_before) * 2**20)
        if needed > available:
            raise MemoryError(
                f"it would need about {in_mib(needed)} more than a step before; "
                f"{in_mib(available)} are there"
            )

    def _train(self, parts: Parts, window: Sequence[Batch], what: str, iteration: int) -> None:
        with self._measured(what, window), model_mode(parts.model, training=True):
            seed_iteration(self.cfg.SEED, iteration, self.device)
            try:
                step = train_step(
                    parts.model, window, parts.optimizer, parts.scheduler, self.device,
                    parts.precision, ema=parts.ema, clip_norm=self.cfg.SOLVER.CLIP_NORM,
                )  # fmt: skip
            finally:
                clear_gradients(parts.optimizer)
            losses = step.losses.numbers()
        wrong = [name for name, loss in losses.items() if not math.isfinite(loss)]
        if wrong:
            self.findings.append(
                Finding(
                    "error",
                    f"{what} of the training",
                    f"not finite: {', '.join(wrong)} (images {window[0].image_ids})",
                    "Lower SOLVER.BASE_LR, or look at these images' annotations.",
                )
            )

    @contextmanager
    def _measured(self, what: str, window: Sequence[Batch]) -> Iterator[None]:
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        start = time.perf_counter()
        yield
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        seconds = time.perf_counter() - start
        sizes = [tuple(image.shape[-2:]) for batch in window for image in batch.images]
        height, width = (max(side) for side in zip(*sizes, strict=True))
        boxes = [t["boxes"] for batch in window for t in batch.targets if "boxes" in t]
        objects = sum(map(len, boxes)) if boxes else None
        memory = max_memory_mb(self.device)
        self._steps.append(DryStep(what, len(sizes), (height, width), objects, seconds, memory))
        if on_gpu:
            self._judge_memory(what, memory)

    def _judge_memory(self, what: str, memory_mb: float) -> None:
        total = torch.cuda.get_device_properties(self.device).total_memory / 2**20
        if memory_mb > _TIGHT * total:
            self.findings.append(
                Finding(
                    "warning",
                    what,
                    f"{memory_mb:,.0f} of {total:,.0f} MiB of the GPU's memory are in use",
                    "Lower SOLVER.IMS_PER_BATCH or raise SOLVER.ACCUMULATE: memory that is in "
                    "pieces may end a long run.",
                )
            )

    def _evaluation_batch(self, parts: Parts) -> None:
        if not self.test_sets:
            return
        cfg = replace(self.cfg, {"DATALOADER.NUM_WORKERS": 0})
        loader = make_evaluation_loader(cfg, self.test_sets[0], rank=0, world_size=self.ranks)
        batch = next(iter(loader))
        model: Any = with_views(cfg, parts.model, self.test_sets)
        with self._measured(f"evaluation, {self.test_sets[0].name}", [batch]):
            for _ in compute_on_dataset(model, [batch], self.device):  # type: ignore[arg-type]
                pass

    def _checkpoint(self, parts: Parts) -> int:
        """Write one, read it back, and compare; its bytes."""
        parts.checkpointer.save("model_final", iteration=0, seed=self.cfg.SEED)
        parts.checkpointer.wait()
        path = self.folder / "model_final.pth"
        stored, here = load_file(path)["model"], parts.checkpointer.model.state_dict()
        changed = [name for name in here if not _same_bits(stored[name], here[name])]
        if changed:
            what = f"a checkpoint was read back with other values: {', '.join(changed[:3])}"
            cure = "Do not trust this disk or this memory; name another OUTPUT_DIR."
            self.findings.append(Finding("error", "a checkpoint", what, cure))
        return path.stat().st_size

    def _loader_rate(self) -> float:
        """Images a second of a process's loader, which has the processors for itself."""
        workers = self.cfg.DATALOADER.NUM_WORKERS
        ahead = 2 * workers  # what is read beforehand is no measure of what the processes can do
        most = ahead + _MOST_BATCHES
        cfg = replace(self.cfg, {"SOLVER.MAX_ITER": most, "SOLVER.STEPS": ()})
        loader = make_training_loader(cfg, self.datasets, 0, rank=0, world_size=self.ranks)
        batches = iter(loader)
        images, start, seconds = 0, time.perf_counter(), 0.0
        try:
            for number, batch in enumerate(track(islice(batches, most), "the loader", most), 1):
                seconds = time.perf_counter() - start
                if number == ahead:
                    start = time.perf_counter()
                elif number > ahead:
                    images += len(batch[0])
                    if seconds > _LOADER_SECONDS:
                        break
        finally:
            stop_workers(batches)
        return images / max(seconds, 1e-9)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Also where both are NaN."""
    bits = [each.cpu().contiguous().reshape(-1).view(torch.uint8) for each in (one, other)]
    return torch.equal(*bits)


def resized(cfg: Config, sizes: Tensor) -> Tensor:
    """int64[I, 2]: (height, width) in training at the largest of MIN_SIZE_TRAIN, within a pixel."""
    scales = scales_of(sizes, max(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN)
    scaled = (sizes * scales[:, None]).round().long().clamp(min=1)
    crop = cfg.INPUT.CROP_SIZE_TRAIN
    return scaled if crop is None else torch.minimum(scaled, torch.tensor(crop))

"""From JPEGs to the batch that a trunk takes: our loader, and torchvision's reference pipeline.

    python benchmarks/loader.py --photographs ../shared/data

Measured is all that happens between a file and the normalised, padded float batch at 800/1333 with
its targets, the model's own transform included: decoding, mirroring, resizing, masks, collating,
what goes from worker to main process, normalising and padding. Two images to a batch, on the CPU.
Each has its own best setting, so that several are measured: the number of workers (one thread
each) and of the main process's threads. Ours is `make_data_loader` and the model's `Preprocess`, in
both of its memory formats; theirs is `loader_peer.py` and torchvision's GeneralizedRCNNTransform,
on the same files (`loader_data.py`). All take turns in one process; workers are started once, in a
round that is not counted.

Of ours it is checked that the batches are the same to the last bit for any number of workers, and
in both formats. "To the device" is what a GPU would be sent for a batch: theirs resizes there, ours
before. "Decoding" alone is what both have in common. The last line is JSON.
"""

import argparse
import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from in_turn import Timing, in_turn, machine, print_json, print_table
from loader_data import Compression, write_data
from loader_peer import (
    MEAN,
    STD,
    ReferenceData,
    reference_data_v2,
    reference_loader,
    reference_transform,
)
from PIL import Image
from torch import Tensor

from detengine.config.load import load_config
from detengine.data.build import make_data_loader
from detengine.modeling.preprocess import Preprocess
from detengine.structures.batch import Batch
from detengine.structures.masks import RunLengthMasks

MIN_SIZE, MAX_SIZE, BATCH = 800, 1333, 2
CORES = len(os.sched_getaffinity(0))
SETTINGS = ((0, CORES), (1, 1), (2, 1), (2, CORES))
"""The number of workers, and of threads in the main process."""
TARGETS = {"boxes": 4.0, "masks": 6.0}
"""How many times torchvision's images in a second ours are to be."""
OURS, OURS_BY_PIXEL = "detengine", "detengine, channels last"
THEIRS, THEIRS_V2 = "torchvision", "torchvision, v2"
THEIR_DEFAULT = "torchvision, masks unasked"


class Case(NamedTuple):
    """What is loaded (boxes or masks), by whom and how."""

    task: str
    by: str
    workers: int
    threads: int


Loaders = dict[tuple[str, str, int], Any]
"""By task, kind and number of workers."""


def our_loader(folder: Path, annotations: Path, batches: int, *, masks: bool, workers: int) -> Any:
    keys = {
        "CONVENTIONS": "modern",
        "DATASETS.ROOT": str(folder),
        "DATASETS.DEFINE": f"{{photos: {{FORMAT: coco, IMAGES: ., ANNOTATIONS: {annotations}}}}}",
        "DATASETS.TRAIN": "[photos]",
        "INPUT.MIN_SIZE_TRAIN": f"[{MIN_SIZE}]",
        "INPUT.MAX_SIZE_TRAIN": str(MAX_SIZE),
        "MODEL.MASK_ON": str(masks),
        "MODEL.DEVICE": "cpu",
        "SOLVER.IMS_PER_BATCH": str(BATCH),
        "SOLVER.MAX_ITER": str(batches),
        "SOLVER.SCHEDULE": "multistep",
        "DATALOADER.NUM_WORKERS": str(workers),
    }
    cfg = load_config(None, [part for pair in keys.items() for part in pair])
    return make_data_loader(cfg, True, False, 0)


def our_batches(
    loader: Iterable[Batch], *, channels_last: bool = False
) -> Iterator[tuple[Tensor, list[dict[str, Any]]]]:
    preprocess = Preprocess(MEAN, STD, 32, channels_last=channels_last)
    for images, targets, _ in loader:
        yield preprocess(images)[0], targets


def their_batches(loader: Iterable[Any]) -> Iterator[tuple[Tensor, list[dict[str, Any]]]]:
    transform = reference_transform(MIN_SIZE, MAX_SIZE)
    for images, targets in loader:
        batch, moved = transform(list(images), list(targets))
        yield batch.tensors, moved


def make_loaders(folder: Path, annotations: Path, batches: int) -> Loaders:
    loaders: Loaders = {}
    for workers in sorted({workers for workers, _ in SETTINGS}):
        for task in TARGETS:
            masks = task == "masks"
            loaders[task, OURS, workers] = our_loader(
                folder, annotations, batches, masks=masks, workers=workers
            )
            data = {
                THEIRS: ReferenceData(folder, annotations, with_masks=masks),
                THEIRS_V2: reference_data_v2(folder, annotations, with_masks=masks),
            }
            if not masks:
                data[THEIR_DEFAULT] = ReferenceData(folder, annotations)
            for name, each in data.items():
                loaders[task, name, workers] = reference_loader(each, BATCH, workers)
    return loaders


def make_cases() -> list[Case]:
    """All settings of the main contenders, and of the others the ones that are theirs."""
    cases = []
    for task in TARGETS:
        for workers, threads in SETTINGS:
            cases += [Case(task, by, workers, threads) for by in (OURS, OURS_BY_PIXEL, THEIRS)]
            if threads == CORES:
                cases.append(Case(task, THEIRS_V2, workers, threads))
    cases.insert(4, Case("boxes", THEIR_DEFAULT, 0, CORES))
    return cases


def loader_of(case: Case, loaders: Loaders) -> Any:
    by = OURS if case.by == OURS_BY_PIXEL else case.by
    return loaders[case.task, by, case.workers]


def run_through(case: Case, loaders: Loaders) -> None:
    loader = loader_of(case, loaders)
    torch.set_num_threads(case.threads)
    is_ours = case.by in (OURS, OURS_BY_PIXEL)
    ours = our_batches(loader, channels_last=case.by == OURS_BY_PIXEL)
    for _ in ours if is_ours else their_batches(loader):
        pass


def digest(loader: Any, *, channels_last: bool) -> str:
    """Of all our batches with their targets, as the model gets them."""
    sha256 = hashlib.sha256()
    for batch, targets in our_batches(loader, channels_last=channels_last):
        for tensor in [batch, *(part for target in targets for part in parts(target))]:
            sha256.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
            sha256.update(tensor.contiguous().numpy())
        sha256.update(
            repr([each["masks"].to_stored for each in targets if "masks" in each]).encode()
        )
    return sha256.hexdigest()


def parts(value: Any) -> Iterator[Tensor]:
    """All tensors of a target."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, RunLengthMasks):
        yield from (value.run_ends, value.offsets)
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from parts(value[key])


def bytes_to_device(loader: Any) -> int:
    """Of the first batch: images and targets, without the sizes, which stay on the host."""
    images, targets, *_ = next(iter(loader))
    stay = {"image_size", "original_size"}
    sent = [{k: v for k, v in target.items() if k not in stay} for target in targets]
    return sum(each.nbytes for each in [*images, *(part for t in sent for part in parts(t))])


def decode_all(folder: Path) -> None:
    for path in sorted(folder.glob("*.jpg")):
        with Image.open(path) as image:
            image.load()


def raise_if_batches_differ(loaders: Loaders) -> None:
    for task in TARGETS:
        digests = {
            digest(loader, channels_last=channels_last)
            for (its_task, by, _), loader in loaders.items()
            for channels_last in (False, True)
            if its_task == task and by == OURS
        }
        if len(digests) != 1:
            raise SystemExit(f"{task}: the batches depend on the number of workers")
        print(f"{task}: the same batches for all our settings, {digests.pop()[:16]}")


def compare(loaders: Loaders, folder: Path, images: int, rounds: int) -> dict[str, Any]:
    cases = make_cases()
    works: dict[str, Callable[[], None]] = {
        repr(case): lambda case=case: run_through(case, loaders)  # type: ignore[misc]
        for case in cases
    }
    timings = in_turn(works | {"decoding": lambda: decode_all(folder)}, rounds)
    decoding = timings["decoding"].median / images
    print(f"decoding alone: {1e3 * decoding:.2f} ms an image on one core")
    report: dict[str, Any] = {"decoding_ms": 1e3 * decoding}
    rows = []
    for task, target in TARGETS.items():
        own = {case: timings[repr(case)] for case in cases if case.task == task}
        report[task] = {"target": target, **ratios_of(own)}
        print(f"{task}: {report[task]}")
        for case, timing in own.items():
            speed = f"{images / timing.median:.0f}"
            spread = f"{images / timing.worst:.0f} to {images / timing.best:.0f}"
            sent = bytes_to_device(loader_of(case, loaders)) / 2**20
            who = [task, case.by, str(case.workers), str(case.threads)]
            rows.append([*who, f"{speed} ({spread})", f"{sent:.2f}"])
            report[", ".join(who)] = {"images_a_second": float(speed), "mib_to_device": sent}
    print_table(["what", "by", "workers", "threads", "images/s", "MiB to the device"], rows)
    return report


def ratios_of(timings: dict[Case, Timing]) -> dict[str, float]:
    """Their time over ours: the best settings of each, and those of the same two workers.

    Of their forms only those count that do no more than is asked for.
    """

    def best(names: tuple[str, ...], workers: int | None = None) -> float:
        return min(
            timing.median
            for case, timing in timings.items()
            if case.by in names and workers in (None, case.workers)
        )

    theirs, two = (THEIRS, THEIRS_V2), max(workers for workers, _ in SETTINGS)
    return {
        "best": best(theirs) / best((OURS,)),
        "best, channels last": best(theirs) / best((OURS_BY_PIXEL,)),
        "two workers": best(theirs, two) / best((OURS,), two),
        "two workers, channels last": best(theirs, two) / best((OURS_BY_PIXEL,), two),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--photographs", type=Path, default=Path("../shared/data"))
    parser.add_argument("--images", type=int, default=44)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quality", type=int, default=95)
    parser.add_argument("--subsampling", type=int, choices=(0, 2), default=2, help="2 is 4:2:0")
    options = parser.parse_args()
    compression = Compression(options.quality, options.subsampling)
    where = machine("torchvision", "pillow", "pycocotools")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        annotations = write_data(folder, options.photographs, options.images, compression)
        kilobytes = sum(p.stat().st_size for p in folder.glob("*.jpg")) / options.images / 1e3
        print(f"{options.images} JPEGs of {kilobytes:.0f} kB on average ({compression})")
        with contextlib.redirect_stdout(None):  # pycocotools tells what it reads
            loaders = make_loaders(folder, annotations, options.images // BATCH)
        raise_if_batches_differ(loaders)
        report = compare(loaders, folder, options.images, options.rounds)
    print_json("loader", where, jpeg=str(compression), kilobytes=kilobytes, **report)


if __name__ == "__main__":
    main()

"""Whether the disk and the shared memory have room for what a training puts there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detengine.config.schema import Config
from detengine.data.shared_batches import most_shared_memory
from detengine.structures.finding import Finding, counted

SHARED_MEMORY = Path("/dev/shm")
_TIGHT = 0.8
"""The share of what is free from which on it may not be enough."""


def number_of_checkpoints(cfg: Config) -> int:
    """The most that are on disk at a time, one that is being written included."""
    solver = cfg.SOLVER
    numbered = -(-solver.MAX_ITER // solver.CHECKPOINT_PERIOD) if solver.CHECKPOINT_PERIOD else 0
    if solver.CHECKPOINT_PERIOD and solver.MAX_ITER % solver.CHECKPOINT_PERIOD:
        numbered -= 1  # the last iterations end in model_final
    if solver.KEEP_CHECKPOINTS is not None:
        numbered = min(numbered, solver.KEEP_CHECKPOINTS + 1)
    return numbered + 1 + (solver.BEST_METRIC is not None)


def check_disk(cfg: Config, checkpoint_bytes: int) -> list[Finding]:
    """Whether the output folder's disk has room for the run's checkpoints."""
    number = number_of_checkpoints(cfg)
    needed = number * checkpoint_bytes
    free = shutil.disk_usage(nearest_folder(Path(cfg.OUTPUT_DIR))).free
    what = (
        f"{counted(number, 'checkpoint')} of {in_mib(checkpoint_bytes)} need {in_mib(needed)}; "
        f"{in_mib(free)} are free"
    )
    cure = (
        "Set SOLVER.KEEP_CHECKPOINTS, raise SOLVER.CHECKPOINT_PERIOD, or name another OUTPUT_DIR."
    )
    if needed > free:
        return [Finding("error", f"the disk of OUTPUT_DIR {cfg.OUTPUT_DIR}", what, cure)]
    if needed > _TIGHT * free:
        return [Finding("warning", f"the disk of OUTPUT_DIR {cfg.OUTPUT_DIR}", what, cure)]
    return []


def check_shared_memory(
    cfg: Config, batch_bytes: int, ranks: int, folder: Path = SHARED_MEMORY
) -> list[Finding]:
    """Whether the batches that all loading processes of this machine keep ready have room."""
    workers = cfg.DATALOADER.NUM_WORKERS * ranks
    if not workers or not folder.is_dir():
        return []
    needed, free = most_shared_memory(batch_bytes, workers), shutil.disk_usage(folder).free
    if needed <= _TIGHT * free:
        return []
    return [
        Finding(
            "error" if needed > free else "warning",
            str(folder),
            f"{counted(workers, 'loading process', 'loading processes')} may need "
            f"{in_mib(needed)} of shared memory; {in_mib(free)} are free",
            "Make it larger (docker run --shm-size), or lower DATALOADER.NUM_WORKERS.",
        )
    ]


def available_memory() -> int | None:
    """Bytes that processes can still have without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def nearest_folder(path: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    absolute = path.absolute()
    return next(each for each in (absolute, *absolute.parents) if each.is_dir())


@contextmanager
def folder_on_the_disk_of(output_folder: Path) -> Iterator[Path]:
    """A folder on the same disk but not in it, removed afterwards.

    Where there is none that can be written to, one of the system's.
    """
    nearest = nearest_folder(output_folder)
    beside = nearest.parent if nearest == output_folder.absolute() else nearest
    is_usable = beside.stat().st_dev == nearest.stat().st_dev and os.access(
        beside, os.W_OK | os.X_OK
    )
    with tempfile.TemporaryDirectory(
        prefix=".detengine-doctor-", dir=beside if is_usable else None
    ) as folder:
        yield Path(folder)


def in_mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB" if size >= 10 * 2**20 else f"{size / 2**20:,.1f} MiB"

"""Starting on annotations of COCO's size: seconds and memory, the first time and from then on.

    python benchmarks/startup.py [--rounds 5] [--folder ~/.cache/detengine-benchmarks]

The file is made by `coco_like.py`: 118,287 images, 860,001 annotations, 0.6 GB. Each reading is a
process of its own, taken in turn; imports come before the clock, and the file is in the system's
cache. Peak is VmHWM, the most memory that the process ever had, torch's 0.5 GB included (helper
processes of the first time: 40 MB each, not included). Own is the growth of anonymous memory from
before the annotations to after, which is what cannot be shared; mapped pages are the file's, and
all processes' together. Peer: pycocotools' COCO(json), which has no other way to start; once a
round, but for three rounds at most.

- first: `load_coco`, as the one rank does that reads and writes the packed file.
- mapped: `load_coco` of what is packed. +data set: `DetectionDataset`, TrainingData and the order
  of batches on top, which is all a rank has before its first batch.
- worker: what a forked loader worker has for itself after it read the targets of 2,000 images.

Our other processes map the file while another one has it, as a second rank does. The last line is
JSON.
"""

import argparse
import gc
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from coco_like import write_coco_like
from in_turn import machine, print_json, print_table

from detengine.data.coco import load_coco
from detengine.data.dataset import DetectionDataset, TrainingData
from detengine.data.order import BatchOrder
from detengine.structures.ground_truth import GroundTruth

MOST_PEER_ROUNDS = 3
SAMPLED = 2000


def memory(file: str, field: str) -> float:
    """Megabytes of this process. file: status or smaps_rollup."""
    content = Path(f"/proc/self/{file}").read_text()
    return int(re.search(rf"^{field}:\s+(\d+) kB", content, re.MULTILINE).group(1)) / 1024  # type: ignore[union-attr]


def reading(work: Callable[[], object]) -> dict[str, float]:
    """Seconds, peak and own megabytes of the work, whose result is kept until all are read."""
    gc.collect()
    before, began = memory("smaps_rollup", "Anonymous"), time.perf_counter()
    kept = work()
    seconds = time.perf_counter() - began
    own = memory("smaps_rollup", "Anonymous") - before
    del kept
    return {"seconds": seconds, "peak": memory("status", "VmHWM"), "own": own}


def start_pycocotools(path: Path, cache: Path) -> dict[str, float]:
    from pycocotools.coco import COCO

    return reading(lambda: COCO(str(path)))


def start_first(path: Path, cache: Path) -> dict[str, float]:
    shutil.rmtree(cache, ignore_errors=True)
    return reading(lambda: load_coco(path, None, "coco", cache=cache))


def start_mapped(path: Path, cache: Path) -> dict[str, float]:
    return reading(lambda: load_coco(path, None, "coco", cache=cache))


def make_data(truth: GroundTruth) -> tuple[TrainingData, BatchOrder]:
    dataset = DetectionDataset("coco", truth, Path(), truth.categories.names, with_masks=True)
    data = TrainingData([dataset], [], seed=0)
    sizes = data.image_sizes()
    order = BatchOrder((sizes[:, 0] >= sizes[:, 1]).long(), 16, 0)
    order.batch(0)
    return data, order


def start_data(path: Path, cache: Path) -> dict[str, float]:
    return reading(lambda: make_data(load_coco(path, None, "coco", cache=cache)))


def start_worker(path: Path, cache: Path) -> dict[str, float]:
    torch.set_num_threads(1)  # threads that are there already would not be in a forked process
    data, _ = make_data(load_coco(path, None, "coco", cache=cache))
    dataset = data.datasets[0]
    sizes = dataset.ground_truth().image_sizes
    sending, receiving = os.pipe()[::-1]
    if os.fork() == 0:
        began = time.perf_counter()
        before = memory("smaps_rollup", "Private_Dirty")
        for index in range(0, len(dataset), max(1, len(dataset) // SAMPLED)):
            height, width = sizes[index].tolist()
            dataset._target(index, (height, width))
        grown = memory("smaps_rollup", "Private_Dirty") - before
        found = {"seconds": time.perf_counter() - began, "own": grown}
        os.write(sending, json.dumps(found | {"peak": memory("status", "VmHWM")}).encode())
        os._exit(0)
    os.close(sending)
    os.wait()
    read: dict[str, float] = json.loads(os.read(receiving, 1000))
    return read


WAYS = {
    "pycocotools": start_pycocotools,
    "first": start_first,
    "mapped": start_mapped,
    "mapped, +data set": start_data,
    "worker": start_worker,
}


def in_process(way: str, path: Path, cache: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--way", way, "--json", str(path), "--cache", str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def median(readings: list[dict[str, float]], key: str, digits: int) -> str:
    values = [each[key] for each in readings]
    spread = f"{min(values):.{digits}f} to {max(values):.{digits}f}"
    return f"{statistics.median(values):.{digits}f} ({spread})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-rounds", type=int, default=MOST_PEER_ROUNDS)
    parser.add_argument("--folder", type=Path, default=Path("~/.cache/detengine-benchmarks"))
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(WAYS[options.way](options.json, options.cache)))
        return
    folder = options.folder.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    path, cache = folder / "coco_like.json", folder / "annotations"
    write_coco_like(path)
    path.read_bytes()
    readings: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    holder = None
    for number in range(options.rounds):
        for way in WAYS:
            if way == "pycocotools" and number >= options.peer_rounds:
                continue
            readings[way].append(in_process(way, path, cache))
            if way == "first":
                holder = load_coco(path, None, "coco", cache=cache)
    assert holder is not None
    rows = [
        [way, median(found, "seconds", 2), median(found, "peak", 0), median(found, "own", 0)]
        for way, found in readings.items()
    ]
    print_table(["start", "seconds", "peak, MB", "own, MB"], rows)
    where = machine("pycocotools", "hotcoco", "msgspec", "orjson")
    print_json("startup", where, size=path.stat().st_size, readings=readings)


if __name__ == "__main__":
    main()

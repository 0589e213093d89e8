"""Training on several ranks: the bytes of a step, its time, and each rank's memory.

    python benchmarks/training_scaling.py
    python benchmarks/training_scaling.py --ranks 1 2 --steps 40

The demo's Mask R-CNN through `do_train`, one image and one thread for each rank, over gloo on the
loopback. All numbers of ranks take turns in one run. Bytes are what the loopback carried, packets'
headers included, so nothing else may talk on this machine's loopback; they are quoted for each rank
and beside a ring all-reduce's 2 (N - 1) / N x 4 bytes for each trained parameter. More ranks than
cores share the cores: their time is then that of N steps on those cores. The last line is JSON.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn

from detengine.checkpoint.checkpointer import Checkpointer
from detengine.cli.demo import DATA
from detengine.config.load import load_config
from detengine.data.build import make_data_loader
from detengine.distributed.comm import synchronize
from detengine.distributed.parallel import distribute
from detengine.engine.trainer import do_train
from detengine.parts import build_parts
from detengine.structures.batch import Batch

NEVER = 10**9
WARMUP = 3
CPU = torch.device("cpu")


def loopback_bytes() -> int:
    """Sent over the loopback since the machine was started."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, fields = line.partition(":")
        if name.strip() == "lo":
            return int(fields.split()[8])
    raise RuntimeError("/proc/net/dev has no loopback 'lo'")


def memory_mib() -> dict[str, float]:
    """Of this process: all that it has in memory, and what it shares with no other."""
    fields = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split()[:2]
        fields[name] = float(value) / 1024
    return {"resident": fields["Rss:"], "own": fields["Private_Dirty:"] + fields["Private_Clean:"]}


class MeasuredBatches:
    """One batch, over and over; the time and the loopback's bytes are read between the steps."""

    def __init__(self, batch: Batch, steps: int) -> None:
        self.batch, self.steps = batch, steps
        self.seconds = self.sent = 0.0

    def __len__(self) -> int:
        return WARMUP + self.steps

    def __iter__(self) -> Iterator[Batch]:
        yield from itertools.repeat(self.batch, WARMUP)
        synchronize()
        sent, start = loopback_bytes(), time.perf_counter()
        yield from itertools.repeat(self.batch, self.steps)
        self.seconds = (time.perf_counter() - start) / self.steps
        synchronize()
        self.sent = (loopback_bytes() - sent) / self.steps


class UnsavedCheckpointer(Checkpointer):
    """Of a training of a few steps that nobody wants to keep."""

    def save(self, name: str, **entries: Any) -> None:
        """Save nothing."""


class Rank:
    """One rank's model and batch, trained again and again."""

    def __init__(self, rank: int, folder: Path) -> None:
        keys = ["DATASETS.ROOT", str(DATA), "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(folder)]
        keys += ["DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "1", "SEED", str(rank)]
        keys += ["SOLVER.SCHEDULE", "multistep"]  # which has no end
        cfg = load_config(DATA / "demo.yaml", keys)
        self.parts = build_parts(cfg, folder, CPU, skip_test=True)
        self.batch = next(iter(make_data_loader(cfg, True, False, 0, datasets=self.parts.datasets)))
        self.parameters = sum(p.numel() for p in self.parts.model.parameters() if p.requires_grad)
        self.before = memory_mib()
        self.model: nn.Module = distribute(self.parts.model, CPU, foreign=False)

    def train(self, steps: int, log_period: int) -> MeasuredBatches:
        batches = MeasuredBatches(self.batch, steps)
        parts = self.parts
        do_train(
            self.model,
            batches,
            parts.optimizer,
            parts.scheduler,
            UnsavedCheckpointer(parts.model),
            CPU,
            NEVER,
            {"iteration": 0},
            log_period=log_period,
        )
        return batches

    def measure(self, steps: int) -> dict[str, Any]:
        quiet, logged = self.train(steps, NEVER), self.train(steps, 1)
        return {
            "parameters": self.parameters,
            "seconds": quiet.seconds,
            "bytes": quiet.sent,
            "log_bytes": logged.sent - quiet.sent,
            "before": self.before,
            "after": memory_mib(),
        }


def run_rank(rank: int, world_size: int, folder: str, steps: int, rounds: int) -> None:
    torch.set_num_threads(1)
    turns = Path(folder)
    if world_size > 1:
        meet = f"file://{folder}/meet{world_size}"
        dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=world_size)
    this = Rank(rank, turns / f"run_{world_size}_{rank}")
    for number in range(rounds):
        (turns / f"ready_{world_size}_{number}_{rank}").touch()
        while not (turns / f"turn_{world_size}_{number}").exists():
            time.sleep(0.01)
        measured = this.measure(steps)
        temporary = turns / f"tmp_{world_size}_{number}_{rank}"
        temporary.write_text(json.dumps(measured))
        temporary.rename(turns / f"done_{world_size}_{number}_{rank}")
    if world_size > 1:
        dist.destroy_process_group()


def wait_for(paths: list[Path]) -> list[Path]:
    while not all(path.exists() for path in paths):
        time.sleep(0.01)
    return paths


def measure(counts: list[int], steps: int, rounds: int) -> Iterator[tuple[int, list[Any]]]:
    """(number of ranks, what each of them measured), round by round, in turn."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that are started now
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        groups = [
            torch.multiprocessing.spawn(
                run_rank, (count, folder, steps, rounds), nprocs=count, join=False
            )
            for count in counts
        ]
        wait_for([path / f"ready_{count}_0_{rank}" for count in counts for rank in range(count)])
        for number in range(rounds):
            for count in counts:
                (path / f"turn_{count}_{number}").touch()
                done = wait_for([path / f"done_{count}_{number}_{rank}" for rank in range(count)])
                yield count, [json.loads(each.read_text()) for each in done]
        for group in groups:
            group.join()


def row_of(count: int, rounds: list[list[Any]]) -> dict[str, float]:
    """The medians of the rounds. Bytes are of one step and one rank."""
    parameters = rounds[0][0]["parameters"]
    last = rounds[-1]
    return {
        "seconds": statistics.median(each[0]["seconds"] for each in rounds),
        "bytes": statistics.median(each[0]["bytes"] for each in rounds) / count,
        "formula": 2 * (count - 1) / count * 4 * parameters,
        "log_bytes": statistics.median(each[0]["log_bytes"] for each in rounds) / count,
        "rank0_mib": last[0]["after"]["own"],
        "others_mib": max((rank["after"]["own"] for rank in last[1:]), default=0.0),
        "grown_mib": last[0]["after"]["own"] - last[0]["before"]["own"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    measured: dict[int, list[Any]] = {count: [] for count in options.ranks}
    for count, ranks in measure(options.ranks, options.steps, options.rounds):
        measured[count].append(ranks)
    parameters = measured[options.ranks[0]][0][0]["parameters"]
    cores = len(os.sched_getaffinity(0))
    print(f"{parameters} trained parameters, {cores} cores")
    print(
        f"{'ranks':>5} {'step s':>8} {'bytes':>10} {'formula':>10} {'a log line':>11} "
        f"{'rank 0 MiB':>11} {'others':>7} {'training':>9}"
    )
    report: dict[str, Any] = {"parameters": parameters, "cores": cores, "ranks": {}}
    for count, rounds in measured.items():
        row = row_of(count, rounds)
        report["ranks"][count] = {key: round(value, 3) for key, value in row.items()}
        print(
            f"{count:5d} {row['seconds']:8.3f} {row['bytes']:10.0f} {row['formula']:10.0f} "
            f"{row['log_bytes']:11.0f} {row['rank0_mib']:11.0f} {row['others_mib']:7.0f} "
            f"{row['grown_mib']:9.0f}"
        )
    print(json.dumps(report))


if __name__ == "__main__":
    main()

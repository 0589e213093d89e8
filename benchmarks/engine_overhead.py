"""What the training loop itself costs an iteration: ours, the predecessor's, and two others'.

    pip install -e '.[bench]'
    python benchmarks/engine_overhead.py

Microseconds an iteration beyond those of a bare loop (forward, backward, optimizer and scheduler
step), on a model so small that the loop is what takes the time. All take turns in each round, on
the same batches, with torch's fused SGD and one thread.

- ours: `do_train` as `detengine train` calls it: meters, a log line every 20 iterations to a file,
  metrics.jsonl, a seed for each iteration, the guard against steps that are not finite, requests to
  stop, a checkpoint in the background every 2500 iterations and one at the end.
- predecessor: the loop of maskrcnn-benchmark (engine/trainer.py with utils/metric_logger.py),
  retyped from what it does, since it cannot be installed: every loss is read from the device in
  every step, medians by torch, an ETA computed in each iteration, a line every 20.
- accelerate: prepared model, optimizer and scheduler, `accelerator.backward`; no meters, no log.
- lightning: a LightningModule that logs its losses, CSVLogger every 20 steps, without bar,
  checkpoints and summary.

Beside it, how often the host asks the device for a number (item, tolist, float, bool, cpu, numpy of
a tensor) in each iteration: on a GPU each waits for all that the device still has to do. The last
line is JSON: medians in microseconds, and these reads.
"""

import argparse
import datetime
import logging
import tempfile
import time
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import accelerate
import lightning
import torch
from in_turn import Timing, in_turn, machine, print_json, print_table
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler

from detengine.checkpoint.checkpointer import Checkpointer
from detengine.engine.trainer import do_train
from detengine.monitor.sinks import JsonlSink
from detengine.solver.lr_scheduler import WarmupMultiStepLR

ITERATIONS = 2500
LOG_PERIOD = 20
CPU = torch.device("cpu")


class Case(NamedTuple):
    """A model's size, and of its losses how many there are in a step, and of how many names."""

    parameters: int
    losses: int
    names: int

    def __str__(self) -> str:
        changing = f" of {self.names} names that change" if self.names > self.losses else ""
        return f"{self.parameters} parameters, {self.losses} losses{changing}"


CASES = (Case(4, 5, 5), Case(4, 40, 60), Case(80, 5, 5), Case(300, 5, 5))


class TinyDetector(nn.Module):
    """All losses hang on all parameters through one sum, so that the model costs little itself."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        self.weights = nn.ParameterList(nn.Parameter(torch.ones(8)) for _ in range(case.parameters))
        self.calls = 0

    def forward(self, images: Any, targets: Any) -> dict[str, Tensor]:
        total = torch.stack(list(self.weights)).sum() * 1e-3
        losses = total.expand(self.case.losses).unbind()
        self.calls += 1
        first = self.calls * 7 if self.case.names > self.case.losses else 0
        return {f"loss_{(first + n) % self.case.names}": loss for n, loss in enumerate(losses)}


class Loader:
    """The same batch of two images again and again."""

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations
        images = [torch.zeros(3, 8, 8, dtype=torch.uint8)] * 2
        size = torch.tensor([8, 8])
        target = {
            "boxes": torch.tensor([[0.0, 0.0, 4.0, 4.0]]),
            "labels": torch.tensor([1]),
            "image_size": size,
            "original_size": size,
        }
        self.batch = images, [target, target], [1, 2]

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.iterations):
            yield self.batch


def parts(case: Case) -> tuple[TinyDetector, SGD, LRScheduler]:
    torch.manual_seed(0)
    model = TinyDetector(case)
    optimizer = SGD(model.parameters(), lr=1e-6, momentum=0.9, fused=True)
    return model, optimizer, WarmupMultiStepLR(optimizer, milestones=[2000], warmup_iters=500)


def bare(case: Case, iterations: int, folder: Path) -> None:
    model, optimizer, scheduler = parts(case)
    for images, targets, _ in Loader(iterations):
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()  # type: ignore[union-attr]
        optimizer.step()
        scheduler.step()


def ours(case: Case, iterations: int, folder: Path) -> None:
    model, optimizer, scheduler = parts(case)
    checkpointer = Checkpointer(model, optimizer, scheduler, folder, background=True)
    with closing(JsonlSink(folder / "metrics.jsonl", 0)) as sink:
        do_train(
            model, Loader(iterations), optimizer, scheduler, checkpointer, CPU, 2500,
            {"iteration": 0}, seed=1, log_period=LOG_PERIOD, sinks=[sink],
            should_stop=lambda: False,
        )  # fmt: skip


class PredecessorValue:
    """A window of 20 and a total, as a number each."""

    def __init__(self) -> None:
        self.window: deque[float] = deque(maxlen=20)
        self.total, self.count = 0.0, 0

    def update(self, value: float) -> None:
        self.window.append(value)
        self.count += 1
        self.total += value

    def median(self) -> float:
        return torch.tensor(list(self.window)).median().item()

    def global_avg(self) -> float:
        return self.total / self.count


def predecessor(case: Case, iterations: int, folder: Path) -> None:
    model, optimizer, scheduler = parts(case)
    log = logging.getLogger("detengine.trainer")
    meters: dict[str, PredecessorValue] = defaultdict(PredecessorValue)

    def update(**values: Any) -> None:
        for name, value in values.items():
            meters[name].update(value.item() if isinstance(value, Tensor) else value)

    model.train()
    arguments = {"iteration": 0}
    end = time.time()
    for iteration, (images, targets, _) in enumerate(Loader(iterations), 1):
        data_time = time.time() - end
        arguments["iteration"] = iteration
        images = [image.to(CPU) for image in images]
        targets = [{name: value.to(CPU) for name, value in t.items()} for t in targets]
        losses = model(images, targets)
        total = sum(losses.values())
        reduced = dict(losses)  # of one process: reduce_loss_dict gives them back as they are
        update(loss=sum(reduced.values()), **reduced)
        optimizer.zero_grad()
        total.backward()  # type: ignore[union-attr]
        optimizer.step()
        scheduler.step()
        batch_time = time.time() - end
        end = time.time()
        update(time=batch_time, data=data_time)
        eta_seconds = meters["time"].global_avg() * (iterations - iteration)
        eta = str(datetime.timedelta(seconds=int(eta_seconds)))
        if iteration % LOG_PERIOD == 0 or iteration == iterations:
            line = "  ".join(
                f"{k}: {v.median():.4f} ({v.global_avg():.4f})" for k, v in meters.items()
            )
            rate = optimizer.param_groups[0]["lr"]
            log.info("  ".join([f"eta: {eta}", f"iter: {iteration}", line, f"lr: {rate:.6f}"]))
        if iteration % 2500 == 0 or iteration == iterations:
            states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            states |= {"scheduler": scheduler.state_dict(), **arguments}
            torch.save(states, folder / f"predecessor_{iteration:07d}.pth")


def with_accelerate(case: Case, iterations: int, folder: Path) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer, scheduler = accelerator.prepare(*parts(case))
    for images, targets, _ in Loader(iterations):
        optimizer.zero_grad()
        accelerator.backward(sum(model(images, targets).values()))
        optimizer.step()
        scheduler.step()


class LightningDetector(lightning.LightningModule):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.model, self.optimizer, self.scheduler = parts(case)

    def training_step(self, batch: Any, index: int) -> Tensor:
        images, targets, image_ids = batch
        losses = self.model(images, targets)
        total: Any = sum(losses.values())
        self.log_dict({"loss": total, **losses}, batch_size=len(image_ids))
        return total  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        return [self.optimizer], [{"scheduler": self.scheduler, "interval": "step"}]


def with_lightning(case: Case, iterations: int, folder: Path) -> None:
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_steps=iterations, log_every_n_steps=LOG_PERIOD,
        logger=CSVLogger(str(folder)), enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(LightningDetector(case), Loader(iterations))


LOOPS: dict[str, Callable[[Case, int, Path], None]] = {
    "bare": bare,
    "ours": ours,
    "predecessor": predecessor,
    "accelerate": with_accelerate,
    "lightning": with_lightning,
}


def measured(case: Case, loops: list[str], rounds: int, iterations: int) -> dict[str, Timing]:
    """Microseconds an iteration; of Lightning's fifth as many."""
    counts = {name: iterations // 5 if name == "lightning" else iterations for name in loops}

    def work(name: str) -> Callable[[], None]:
        def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                LOOPS[name](case, counts[name], Path(folder))

        return run

    timings = in_turn({name: work(name) for name in loops}, rounds)
    return {
        name: Timing(*(1e6 * seconds / counts[name] for seconds in timing))
        for name, timing in timings.items()
    }


READS = ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__")


def reads_an_iteration(name: str) -> float:
    """The reads of two hundred iterations, the start and the checkpoints of the end included."""
    count = 0
    before = {read: getattr(Tensor, read) for read in READS}

    def counted(read: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            return read(*args, **kwargs)

        return call

    for read, original in before.items():
        setattr(Tensor, read, counted(original))
    try:
        with tempfile.TemporaryDirectory() as folder:
            LOOPS[name](CASES[0], 200, Path(folder))
    finally:
        for read, original in before.items():
            setattr(Tensor, read, original)
    return count / 200


def quiet(folder: Path) -> None:
    """The lines of a log go to a file, as in a run; what the others say to the terminal nowhere."""
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    log = logging.getLogger("detengine")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(logging.FileHandler(folder / "log.txt"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=list(LOOPS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, dict[str, float]] = {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        quiet(Path(folder))
        for case in CASES:
            timings = measured(case, options.loops, options.rounds, options.iterations)
            base = timings.pop("bare").median
            beyond = {name: Timing(*(us - base for us in each)) for name, each in timings.items()}
            report[str(case)] = {
                "bare": round(base, 1),
                **{name: round(timing.median, 1) for name, timing in beyond.items()},
            }
            cells = [beyond[name].in_units(1, 0) for name in options.loops if name in beyond]
            rows.append([str(case), f"{base:.0f}", *cells])
        reads = {name: reads_an_iteration(name) for name in options.loops}
    others = [name for name in options.loops if name != "bare"]
    of_loops = [f"{reads[name]:.2f}" for name in ["bare", *others]]
    rows.append([f"reads of the device, {CASES[0]}", *of_loops])
    print_table(["model", "bare loop", *others], rows)
    where = machine("accelerate", "lightning")
    print_json("engine_overhead", where, microseconds=report, reads_an_iteration=reads)


if __name__ == "__main__":
    main()

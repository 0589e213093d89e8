"""The command `selftest`: this machine trains and scores alike on one rank and on several."""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import typer

from detengine.cli.app import EXIT_ERROR
from detengine.cli.demo import DATA
from detengine.distributed.report import launched_rank

Results = Mapping[str, Mapping[str, Mapping[str, float]]]
"""results.json: test set -> iou type -> metric -> value."""

START_ITERATIONS, ITERATIONS = 60, 12
"""Of the training that gives both sides their start, and of each side.

Fresh weights propose boxes of all but one score: rounding then decides which are kept, and after
12 iterations two equal trainings are 5e-3 apart. After 60 iterations the scores are spread.
"""
TOLERANCE = 1e-3
"""The largest relative difference of a loss.

Measured with 2, 3 and 4 ranks and four seeds: 2e-7 to 1e-4, the most where rounding made one
proposal another. A gradient of twice the size makes 3e-2 after one iteration, 2e-1 after 12.
"""
NO_CHANCE = (
    # All anchors and proposals count, so that none is drawn by each rank's own generator.
    *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", "100000"),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "100000"),
    *("DETERMINISTIC", "True"),
)
PLAIN_STEPS = (
    *("SOLVER.OPTIMIZER", "sgd"),  # AdamW makes a step of full size of a gradient near 0
    *("SOLVER.SCHEDULE", "multistep"),
    *("SOLVER.WARMUP_ITERS", "0"),
    *("SOLVER.BASE_LR", "0.002"),
    *("SOLVER.LOG_PERIOD", "1"),
)
SHOWN_LINES = 30


@dataclass(frozen=True)
class Side:
    """One side of the comparison: detengine on so many ranks of this machine.

    device: MODEL.DEVICE. folder: holds each command's output and log.
    """

    ranks: int
    device: str
    folder: Path

    def run(self, name: str, arguments: Sequence[str], keys: Sequence[str]) -> Path:
        """Run a detengine command on demo.yaml and give its output folder.

        Ends with exit code 1, and the last lines of its log, if the command fails.
        """
        output, log = self.folder / name, self.folder / f"{name}.txt"
        command = [
            *self._launcher(),
            *("-m", "detengine", *arguments, "-c", str(DATA / "demo.yaml")),
            *("--output-dir", str(output), "MODEL.DEVICE", self.device),
            *("DATASETS.ROOT", str(DATA), "DATALOADER.NUM_WORKERS", "0", "TEST.PICTURES", "0"),
            *("SOLVER.TEST_PERIOD", "0", *keys),
        ]
        # One thread on each side: a sum over threads is rounded in another order.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with log.open("wb") as file:
            finished = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment
            )
        if finished.returncode:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            shown = "\n".join(lines[-SHOWN_LINES:])
            typer.secho(
                f"error: {name} ended with exit code {finished.returncode}; the end of its "
                f"output:\n{shown}",
                err=True,
                fg=typer.colors.RED,
            )
            raise typer.Exit(EXIT_ERROR)
        return output

    def _launcher(self) -> list[str]:
        if self.ranks == 1:
            return [sys.executable]
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
        return [sys.executable, *torchrun, str(self.ranks)]


def selftest(ranks: int, output_folder: Path | None) -> None:
    """Show that `ranks` ranks of this machine have one rank's losses and its AP.

    output_folder: None leaves nothing behind. Ends with exit code 1 if they differ or a run fails.
    """
    raise_if_unable(ranks)
    with ExitStack() as stack:
        if output_folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="detengine-")))
        else:
            folder = new_folder(output_folder)
        device = device_for(ranks)
        one, several = (Side(n, device, folder) for n in (1, ranks))
        typer.echo(f"1. {START_ITERATIONS} iterations of the demo's Mask R-CNN, for a start")
        start = one.run("start", ["train", "--skip-test"], _max_iter(START_ITERATIONS))
        weights = start / "model_final.pth"
        same_losses = _compare_losses(one, several, weights)
        same_scores = _compare_scores(one, several, weights)
    if not (same_losses and same_scores):
        typer.secho(
            "error: 1 rank and several do not agree on this machine; please report the lines above",
            err=True,
            fg=typer.colors.RED,
        )
        raise typer.Exit(EXIT_ERROR)
    typer.echo(f"\n1 rank and {ranks} ranks agree.")


def raise_if_unable(ranks: int) -> None:
    """Raise ValueError if so few ranks show nothing, a torchrun is around, or torch lacks gloo."""
    if ranks < 2:
        raise ValueError(f"--nproc is {ranks}; expected 2 or more, which are compared with 1")
    if launched_rank() is not None:
        raise ValueError(
            "selftest runs under torchrun, but starts its ranks itself; run it alone: "
            f"detengine selftest --nproc {ranks}"
        )
    if not (dist.is_available() and dist.is_gloo_available()):
        raise ValueError(
            f"torch {torch.__version__} has no gloo, over which ranks talk; install a build of "
            "torch with torch.distributed"
        )


def new_folder(path: Path) -> Path:
    """Make the folder. Raises FileExistsError if it is there, so that no run is mistaken for it."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise FileExistsError(
            f"--output-dir {path} is there already; selftest writes into a new folder: name another"
        ) from None
    return path


def device_for(ranks: int) -> str:
    """cuda where each rank can have a GPU of its own, else cpu; says which, and why."""
    gpus = torch.cuda.device_count()
    if gpus >= ranks:
        typer.echo(f"{ranks} ranks, each on a GPU of its own.")
        return "cuda"
    found = f"{gpus} GPU{'s' * (gpus != 1)} for {ranks} ranks" if gpus else "no GPU"
    typer.echo(f"{ranks} ranks on the CPU, one thread each ({found}).")
    return "cpu"


def _compare_losses(one: Side, several: Side, weights: Path) -> bool:
    n = str(several.ranks)
    # Both average the gradients of n steps of one image each.
    keys = ["MODEL.WEIGHT", str(weights), "SOLVER.IMS_PER_BATCH", n, *NO_CHANCE, *PLAIN_STEPS]
    keys += _max_iter(ITERATIONS)
    train = ["train", "--skip-test"]
    typer.echo(f"2. {ITERATIONS} iterations from there on 1 rank, {n} images one after the other")
    alone = one.run("train-1", train, [*keys, "SOLVER.ACCUMULATE", n])
    typer.echo(f"3. The same on {n} ranks, an image each")
    shared = several.run(f"train-{n}", train, keys)
    rows = loss_differences(read_metrics(alone), read_metrics(shared))
    same = all(row.relative <= TOLERANCE for row in rows)
    largest = max(row.relative for row in rows)
    typer.echo(
        f"{loss_table(rows, several.ranks)}\n"
        f"   The losses {'agree' if same else 'DIFFER'}: at most {largest:.0e} apart, "
        f"{TOLERANCE:.0e} allowed."
    )
    return same


def _compare_scores(one: Side, several: Side, weights: Path) -> bool:
    evaluate = ["eval", "--weights", str(weights)]
    # One image at a time: the padding of a batch would move the boxes a little.
    keys = ["TEST.IMS_PER_BATCH", "1", *NO_CHANCE]
    typer.echo("4. The start scored on 1 rank")
    alone = read_results(one.run("eval-1", evaluate, keys))
    typer.echo(f"5. The start scored on {several.ranks} ranks")
    shared = read_results(several.run(f"eval-{several.ranks}", evaluate, keys))
    differing = score_differences(alone, shared)
    typer.echo("\n".join(f"   {line}" for line in differing or ap_lines(alone)))
    if not differing:
        count = len(_flat(alone))
        typer.echo(f"   All {count} metrics are equal, bit for bit.")
    return not differing


@dataclass(frozen=True)
class LossRow:
    """An iteration's total loss on both sides, and the most that any of its losses differs."""

    iteration: int
    alone: float
    shared: float
    relative: float
    """|a - b| / max(|a|, |b|); inf where a loss is not there on both sides, or not finite."""


def loss_differences(
    alone: Sequence[Mapping[str, float]], shared: Sequence[Mapping[str, float]]
) -> list[LossRow]:
    """One row for each iteration. alone, shared: the lines of metrics.jsonl.

    Raises ValueError if they are not of the same iterations, or of none.
    """
    iterations = [[int(line["iteration"]) for line in lines] for lines in (alone, shared)]
    if not alone or iterations[0] != iterations[1]:
        raise ValueError(
            f"1 rank logged the iterations {iterations[0]}, several {iterations[1]}; expected "
            "the same"
        )
    rows = []
    for one, other in zip(alone, shared, strict=True):
        names = {key for key in (*one, *other) if key.startswith("train/loss")}
        relative = max(_relative(one.get(name), other.get(name)) for name in names)
        row = LossRow(int(one["iteration"]), one["train/loss"], other["train/loss"], relative)
        rows.append(row)
    return rows


def _relative(one: float | None, other: float | None) -> float:
    if one is None or other is None or not (math.isfinite(one) and math.isfinite(other)):
        return math.inf
    return 0.0 if one == other else abs(one - other) / max(abs(one), abs(other))


def loss_table(rows: Sequence[LossRow], ranks: int) -> str:
    """The rows as text, one line each."""
    several = f"{ranks} ranks"
    head = f"   {'iteration':>9}  {'1 rank':>10}  {several:>10}  largest difference of a loss"
    body = [
        f"   {row.iteration:>9}  {row.alone:>10.6f}  {row.shared:>10.6f}  {row.relative:.0e}"
        for row in rows
    ]
    return "\n".join([head, *body])


def score_differences(alone: Results, shared: Results) -> list[str]:
    """A line for each metric that is not the same to the last bit, or not there, on both sides."""
    one, other = _flat(alone), _flat(shared)
    return [
        f"{name}: {one.get(name)!r} on 1 rank, {other.get(name)!r} on several"
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name)
    ]


def ap_lines(results: Results) -> list[str]:
    """Each AP with all its digits. Raises ValueError if one is 0, which would show nothing."""
    aps = {name: value for name, value in _flat(results).items() if name.endswith("/AP")}
    for name, value in aps.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; expected more than 0 of the start's weights")
    return [f"{name} {value!r} on both" for name, value in aps.items()]


def _flat(results: Results) -> dict[str, float]:
    return {
        f"{test_set}/{iou_type}/{metric}": value
        for test_set, of_set in results.items()
        for iou_type, metrics in of_set.items()
        for metric, value in metrics.items()
    }


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl, where "nan" and "inf" are strings."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: float(value) for name, value in json.loads(line).items()} for line in lines]


def read_results(folder: Path) -> Results:
    """A run's results.json."""
    results: Results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return results


def _max_iter(iterations: int) -> list[str]:
    return ["SOLVER.MAX_ITER", str(iterations)]

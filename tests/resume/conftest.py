"""Trainings by the command line, each in a process that can be killed, and what they leave."""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from detengine.checkpoint.files import load_file
from processes import ForkServer, Process, environments_of_ranks

ITERATIONS = 40
SMALL = {
    "SOLVER.MAX_ITER": ITERATIONS,
    "SOLVER.LOG_PERIOD": 1,
    "SOLVER.CHECKPOINT_PERIOD": 5,
    "INPUT.MIN_SIZE_TRAIN": (40, 48, 56),
    "INPUT.MIN_SIZE_TEST": 48,
    "INPUT.BRIGHTNESS": 0.2,
    "INPUT.CONTRAST": 0.2,
    "MODEL.MASK_ON": False,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": 16,
    "MODEL.BACKBONE.NORM": "GN",
    "MODEL.RPN.PRE_NMS_TOP_N_TRAIN": 50,
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN": 20,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 8,
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 16,
    "MODEL.ROI_MASK_HEAD.CONV_LAYERS": (8,),
    "TEST.IMS_PER_BATCH": 1,
    "TEST.PICTURES": 0,
}
"""An iteration takes 15 ms. Sizes, flips and colours are drawn, and so are proposals."""

STATES = ("model", "optimizer", "scheduler", "precision", "ema")
CLOCKS = ("time", "data", "max_mem")


class Run:
    """A training with its settings, in its folder.

    settings: by dotted key; what `start` is given wins over them. seconds: what it took, if it was
    made by `unbroken`.
    """

    def __init__(
        self, server: ForkServer, config: Path, folder: Path, settings: dict[str, Any]
    ) -> None:
        self.server, self.config, self.folder = server, config, folder
        self.settings = SMALL | settings
        self.output_path = folder.with_suffix(".out")
        self.seconds = 0.0

    def train(self, *, resume: bool = False, **how: Any) -> int:
        """The exit code of the whole command."""
        return self.start(resume=resume, **how).wait()

    def arguments(self, *, resume: bool, scored: bool, settings: dict[str, Any]) -> list[str]:
        """What follows `detengine` on the command line."""
        values = self.settings | settings | {"OUTPUT_DIR": self.folder}
        options = ["--resume"] * resume + ["--skip-test"] * (not scored)
        pairs = [str(word) for pair in values.items() for word in pair]
        return ["train", "-c", str(self.config), *options, *pairs]

    def start(
        self,
        *,
        resume: bool = False,
        scored: bool = False,
        settings: dict[str, Any] | None = None,
        signal_at: tuple[str, int] | None = None,
        to_group: bool = False,
        environment: dict[str, str] | None = None,
        memory_at: tuple[str, int] | None = None,
        read_images: Path | None = None,
    ) -> Process:
        """scored: score, instead of --skip-test. signal_at: the pattern of a log line, and what
        the process, or with to_group the group, is sent there. memory_at: the pattern, and how
        many bytes more than it has there the process may have.
        """
        at = signal_at and {"pattern": signal_at[0], "signal": signal_at[1], "group": to_group}
        return self.server.start(
            arguments=self.arguments(resume=resume, scored=scored, settings=settings or {}),
            output=str(self.output_path),
            environment=environment or {},
            signal_at=at,
            memory_at=memory_at,
            read_images=str(read_images or ""),
        )

    def start_ranks(
        self,
        count: int,
        *,
        signal_at: tuple[str, int] | None = None,
        signalled: Sequence[int] = (0, 1),
        read_images: Sequence[Path | None] = (),
        **how: Any,
    ) -> list[Process]:
        """The run on so many processes, which find each other as torchrun's do.

        signalled: the ranks that signal_at is for. read_images: a path for each rank, or none.
        """
        return [
            self.start(
                environment=environment,
                signal_at=signal_at if rank in signalled else None,
                read_images=read_images[rank] if read_images else None,
                **how,
            )
            for rank, environment in enumerate(environments_of_ranks(count))
        ]

    @staticmethod
    def environments(count: int) -> list[dict[str, str]]:
        """What so many ranks are told by their launcher, for `start`."""
        return environments_of_ranks(count)

    def train_ranks(self, count: int, **how: Any) -> list[int]:
        """The exit code of each rank."""
        return [rank.wait() for rank in self.start_ranks(count, **how)]

    def wait_for(self, pattern: str) -> None:
        """Until the log has a line of that pattern."""
        while not re.search(pattern, self.log()):
            time.sleep(0.005)

    def output(self) -> str:
        """What all its processes printed."""
        return self.output_path.read_text()

    def log(self) -> str:
        path = self.folder / "log.txt"
        return path.read_text() if path.exists() else ""

    def last_checkpoint(self) -> str:
        return (self.folder / "last_checkpoint").read_text().strip()

    def checkpoints(self) -> set[str]:
        return {path.name for path in self.folder.glob("*.pth")}

    def loss_lines(self) -> set[tuple[int, str]]:
        """(iteration, losses) of the log; one that was done twice counts once if it is the same."""
        found = re.findall(r" iter: (\d+)  (loss: .*?)  time: ", self.log())
        return {(int(iteration), losses) for iteration, losses in found}

    def metrics(self, kind: str = "train/") -> list[dict[str, float]]:
        """The lines of metrics.jsonl that have metrics of the kind, without what a clock says."""
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        without = {f"train/{clock}" for clock in CLOCKS}
        parsed = [{k: v for k, v in json.loads(line).items() if k not in without} for line in lines]
        return [line for line in parsed if any(name.startswith(kind) for name in line)]


def _differences(one: Any, other: Any, where: str) -> Iterator[str]:
    """Where two states differ in structure, or in any bit of a tensor."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            yield where
    elif isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for name in one:
            yield from _differences(one[name], other[name], f"{where}/{name}")
    elif isinstance(one, (list, tuple)) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from _differences(*pair, f"{where}/{index}")
    elif one != other:
        yield f"{where}: {one!r} != {other!r}"


@pytest.fixture(scope="session")
def differences() -> Callable[[Run, Run], list[str]]:
    """(run, expected) -> what differs between their ends: states, losses in the log, metrics.

    A run that was stopped may have logged iterations that an unbroken one does not.
    """

    def compare(run: Run, expected: Run) -> list[str]:
        ends = [load_file(each.folder / "model_final.pth") for each in (run, expected)]
        for end in ends:
            end["meters"] = {k: v for k, v in end["meters"].items() if k not in CLOCKS}
        parts = [{part: end[part] for part in (*STATES, "iteration", "meters")} for end in ends]
        found = list(_differences(parts[0], parts[1], "model_final"))
        logged = {iteration for iteration, _ in expected.loss_lines()}
        lines = sorted(run.loss_lines() ^ expected.loss_lines())
        found += [
            f"log: {iteration} {losses}" for iteration, losses in lines if iteration in logged
        ]
        metrics = [line for line in run.metrics() if line["iteration"] in logged]
        return found + list(_differences(metrics, expected.metrics(), "metrics.jsonl"))

    return compare


@pytest.fixture(scope="session")
def new_run(
    fork_server: ForkServer, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Run]:
    """(settings by dotted key) -> a run that has not begun."""

    def new(settings: dict[str, Any] | None = None) -> Run:
        folder = tmp_path_factory.mktemp("resume") / "run"
        return Run(fork_server, tiny_config, folder, settings or {})

    return new


@pytest.fixture(scope="session")
def unbroken(new_run: Callable[..., Run]) -> Callable[..., Run]:
    """(settings, scored=False, ranks=1) -> a run of these that was never broken, made once."""
    made: dict[tuple[str, bool, int], Run] = {}

    def get(settings: dict[str, Any] | None = None, *, scored: bool = False, ranks: int = 1) -> Run:
        key = (repr(settings or {}), scored, ranks)
        if key not in made:
            run = made[key] = new_run(settings)
            start = time.monotonic()
            codes = run.train_ranks(ranks, scored=scored)
            run.seconds = time.monotonic() - start
            assert codes == [0] * ranks, run.output()
        return made[key]

    return get

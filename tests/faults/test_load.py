"""Long runs, and many in one process, hold what they held from the beginning."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest
import yaml

from footprint import Footprint, raise_if_growing, watch
from processes import ForkServer, Process, environments_of_ranks

pytestmark = pytest.mark.faults

REPEATED = Path(__file__).parent / "repeated_program.py"
SECONDS = 3000
TINY: dict[str, Any] = {
    "INPUT.MIN_SIZE_TRAIN": [48, 56, 64],
    "INPUT.MAX_SIZE_TRAIN": 80,
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.MAX_SIZE_TEST": 80,
    "INPUT.CROP_SIZE_TRAIN": None,
    "MODEL.DEVICE": "cpu",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": 16,
    "MODEL.RPN.PRE_NMS_TOP_N_TRAIN": 50,
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN": 20,
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST": 20,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 8,
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 16,
    "MODEL.ROI_MASK_HEAD.CONV_LAYERS": [8],
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.KEEP_CHECKPOINTS": 2,
    "SOLVER.LOG_PERIOD": 5,
    "SINKS": ["tensorboard"],
    "TEST.IMS_PER_BATCH": 4,
    "TEST.PICTURES": 2,
    "TEST.LOSS": True,
}
"""Mask R-CNN on pictures of cells of 64 pixels: an iteration takes 20 ms of one processor."""


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    """The demo's data, which are real and come with the package, and a tiny model."""
    with as_file(files("detengine") / "demo_data") as data:
        content = {"_BASE_": str(data / "demo.yaml"), "DATASETS": {"ROOT": str(data)}}
        path = tmp_path / "load.yaml"
        path.write_text(yaml.safe_dump(content | _nested(TINY)))
        yield path


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *parts, name = key.split(".")
        place = nested
        for part in parts:
            place = place.setdefault(part, {})
        place[name] = value
    return nested


class LongRun:
    """A training in processes of its own, one for each rank."""

    def __init__(self, server: ForkServer, config: Path, folder: Path) -> None:
        self.server, self.config, self.folder = server, config, folder

    def watched(self, iterations: int, *, ranks: int = 1, every: float, **changes: Any) -> Any:
        """Its footprints from the first log line to the last iteration."""
        values = {"SOLVER.MAX_ITER": iterations, "OUTPUT_DIR": self.folder, **changes}
        arguments = ["train", "-c", str(self.config)]
        arguments += [str(word) for pair in values.items() for word in pair]
        processes = [
            self.server.start(arguments=arguments, output=f"{self.folder}.out", environment=each)
            for each in (environments_of_ranks(ranks) if ranks > 1 else [{}])
        ]
        samples = watch([each.pid for each in processes], self.iteration, every=every)
        self._raise_if_failed(processes)
        return [each for each in samples if 0 < each.position < iterations]

    def iteration(self) -> int:
        """The last one of which metrics.jsonl tells."""
        path = self.folder / "metrics.jsonl"
        with suppress(FileNotFoundError, IndexError, ValueError), path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 5000))
            return int(json.loads(file.read().splitlines()[-1])["iteration"])
        return 0

    def _raise_if_failed(self, processes: Sequence[Process]) -> None:
        codes = [each.wait(SECONDS) for each in processes]
        assert codes == [0] * len(processes), Path(f"{self.folder}.out").read_text()[-5000:]


@pytest.fixture
def long_run(fork_server: ForkServer, config: Path, tmp_path: Path) -> LongRun:
    return LongRun(fork_server, config, tmp_path / "run")


@pytest.mark.endurance
def test_a_training_holds_what_it_held_from_the_beginning(long_run: LongRun) -> None:
    """A short one: what is counted is counted exactly."""
    samples = long_run.watched(
        120,
        every=0.03,
        **{"DATALOADER.NUM_WORKERS": 2, "SOLVER.CHECKPOINT_PERIOD": 30, "REPORT": False},
        **{"DATASETS.TEST": []},
    )
    raise_if_growing(samples, most_mb=20, workers=2)


@pytest.mark.endurance
@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("workers", [2, 0])
def test_a_long_training_is_flat(
    long_run: LongRun, workers: int, record_fault: Callable[..., None]
) -> None:
    iterations, evaluations, checkpoints = 10_000, 24, 40
    samples = long_run.watched(
        iterations,
        every=0.5,
        **{"DATALOADER.NUM_WORKERS": workers},
        **{"SOLVER.CHECKPOINT_PERIOD": iterations // checkpoints},
        **{"SOLVER.TEST_PERIOD": iterations // evaluations},
    )
    flat = raise_if_growing(samples, most_mb=12, workers=workers)
    record_fault(
        "Load",
        f"a long training, {workers} loader workers",
        made="a Mask R-CNN on 45 pictures of cells, with checkpoints, evaluations with test losses "
        "and pictures, metrics, TensorBoard and the report",
        promised="memory grows by less than 12 MB from the second quarter to the last; "
        "descriptors, threads and processes not at all, but for a worker's four shared blocks",
        tried=f"{iterations:,} iterations, {checkpoints} checkpoints, {evaluations} evaluations, "
        f"{len(samples):,} samples",
        happened=flat,
    )


@pytest.mark.endurance
@pytest.mark.timeout(SECONDS)
def test_a_long_training_on_two_ranks_is_flat(
    long_run: LongRun, record_fault: Callable[..., None]
) -> None:
    iterations, evaluations = 2000, 8
    samples = long_run.watched(
        iterations,
        ranks=2,
        every=0.5,
        **{"DATALOADER.NUM_WORKERS": 1, "SOLVER.CHECKPOINT_PERIOD": iterations // 20},
        **{"SOLVER.TEST_PERIOD": iterations // evaluations},
    )
    flat = raise_if_growing(samples, most_mb=16, workers=2)
    record_fault(
        "Load",
        "a long training on two ranks",
        made="the same, each rank with a loader worker",
        promised="memory grows by less than 16 MB, both ranks' together; all else not at all",
        tried=f"{iterations:,} iterations, {evaluations} evaluations, {len(samples):,} samples",
        happened=flat,
    )


@pytest.mark.endurance
@pytest.mark.timeout(SECONDS)
def test_many_in_one_process_hold_what_the_first_ones_held(
    config: Path,
    tmp_path: Path,
    run_ranks: Callable[..., list[str]],
    times: Callable[[int, int], int],
    record_fault: Callable[..., None],
) -> None:
    shorter = {"SOLVER": {"MAX_ITER": 4, "TEST_PERIOD": 0}, "DATALOADER": {"NUM_WORKERS": 0}}
    path = tmp_path / "short.yaml"
    path.write_text(yaml.safe_dump({"_BASE_": str(config), **shorter}))
    folder = tmp_path / "many"
    number = {
        "trainings": times(4, 24),
        "evaluations": times(0, 24),
        "loads": times(0, 24),
        "predictions": times(16, 200),
    }
    happened = []
    for what, count in number.items():
        source = tmp_path / "many-0" if what != "trainings" else folder
        if count:
            [printed] = run_ranks(1, REPEATED, what, count, source, path, seconds=SECONDS)
            lines = [line for line in printed.splitlines() if line.startswith("[")]
            samples = [Footprint(*json.loads(line)) for line in lines]
            assert len(samples) == count
            happened.append(f"{what}: {raise_if_growing(samples, most_mb=8)}")
    record_fault(
        "Load",
        "many in one process",
        made="trainings that score, evaluations with stored predictions, loads, predictions, each "
        "kind in one process",
        promised="memory grows by less than 8 MB from the second quarter to the last; descriptors, "
        "threads, processes and shared memory not at all",
        tried=", ".join(f"{count} {what}" for what, count in number.items()),
        happened=f"{'; '.join(happened)}; all else as it was",
    )

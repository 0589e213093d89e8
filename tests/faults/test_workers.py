"""Loader processes that die, fail or hang: the run ends in time, and says which one and where."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from processes import ForkServer
from resume.conftest import SMALL

pytestmark = pytest.mark.faults

PROGRAM = Path(__file__).parent / "faulty_program.py"
SECONDS = 60.0
SETTINGS = {
    "SOLVER.MAX_ITER": 6,
    "DATALOADER.NUM_WORKERS": 2,
    "MODEL.BUILDER": "tiny_detectors:without_randomness",
    "TEST.IMS_PER_BATCH": 1,
}
TRAIN_IMAGE = r"image 103 \(\S*/train_3\.jpg\) of data set 'shapes_train'"
VAL_IMAGE = r"image 102 \(\S*/val_2\.jpg\) of data set 'shapes_val'"
WORKER = r"data-loader worker [01] \(process \d+\)"

DEATHS = {
    "SIGKILL": "was killed by the signal Killed. If the memory was not enough",
    "SIGSEGV": "was killed by the signal Segmentation fault. Look at that image",
    "SIGBUS": "was killed by the signal Bus error. Make /dev/shm larger",
    "_exit(3)": "ended by itself, with exit code 3. Look at what reads",
    "SystemExit": "ended by itself, with exit code 3. Look at what reads",
    "_exit(0)": "ended by itself, with exit code 0. Look at what reads",
    "KeyboardInterrupt": "ended by itself, with exit code 0. Look at what reads",
}
"""What is said of a worker that makes the fault: how it ended, and the cure."""
ERRORS = {
    "unpicklable": "made to fail",
    "StopIteration": "StopIteration",
    "RecursionError": "too deep",
    "MemoryError": "emory",
    "huge message": "xxxxxxxx",
}
"""What is said of an error that a worker raises."""
HANGS = ("sleeps", "deadlock", "holds the GIL", "SIGSTOP")


class Ended(NamedTuple):
    """A command that is over. left_over: processes of its group that live on."""

    code: int
    said: str
    seconds: float
    left_over: list[int]


@pytest.fixture(scope="module")
def trained(play: Callable[..., Ended], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights to score."""
    folder = tmp_path_factory.mktemp("workers") / "trained"
    ended = play("train", folder, {}, {"DATALOADER.NUM_WORKERS": 0})
    assert ended.code == 0, ended.said
    return folder / "model_final.pth"


@pytest.fixture(scope="module")
def play(
    fork_server: ForkServer, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Ended]]:
    """(command, folder, fault, settings={}, options=()) -> how it ended."""

    def run(
        command: str,
        folder: Path,
        fault: dict[str, Any],
        settings: dict[str, Any] | None = None,
        options: tuple[str, ...] = (),
    ) -> Ended:
        output = tmp_path_factory.mktemp("output") / "output"
        values = SMALL | SETTINGS | {"OUTPUT_DIR": folder} | (settings or {})
        pairs = [str(word) for pair in values.items() for word in pair]
        start = time.monotonic()
        process = fork_server.start(
            program=str(PROGRAM),
            arguments=[command, "-c", str(tiny_config), *options, *pairs],
            output=str(output),
            environment={"FAULT": json.dumps(fault)},
        )
        code = process.wait(SECONDS)
        seconds = time.monotonic() - start
        return Ended(code, output.read_text(), seconds, processes_of_group(process.pid))

    return run


def processes_of_group(group: int) -> list[int]:
    """Those that live a few seconds later; workers look for their main process once a second."""
    deadline = time.monotonic() + 15
    while (living := list(_living(group))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return living


def _living(group: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, _, group_of_it = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(group_of_it) == group and state != "Z":
            yield int(entry.name)


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}


def at(image: str, do: str, by: str = "worker") -> dict[str, Any]:
    return {"at": "open", "file": image, "by": by, "do": do}


def test_a_worker_that_dies_ends_the_run_which_names_it_its_image_and_the_cure(
    play: Any, tmp_path: Path, times: Any, record_fault: Any
) -> None:
    before = shared_memory()
    deaths = list(DEATHS.items())[: times(1, len(DEATHS))]
    seconds = []
    for do, expected in deaths:
        ended = play("train", tmp_path / do, at("train_3", do), options=("--skip-test",))
        assert ended.code == 1, ended.said
        assert re.search(
            rf"error: {WORKER}, which last began to read {TRAIN_IMAGE}, {re.escape(expected)}",
            ended.said,
        ), ended.said
        assert ended.left_over == []
        seconds.append(ended.seconds)
    assert shared_memory() <= before
    record_fault(
        "Workers",
        "a loader process dies while it reads an image",
        made=", ".join(do for do, _ in deaths),
        promised="the run ends with 1, names worker, image and cure; no process, no shared memory",
        tried=f"{len(deaths)} deaths",
        happened=f"all named; the slowest run was over after {max(seconds):.0f} s",
    )


def test_an_error_in_a_worker_is_shown_with_the_image_whatever_it_is(
    play: Any, tmp_path: Path, times: Any, record_fault: Any
) -> None:
    kinds = [(do, by) for do in ERRORS for by in ("worker", "main")][: times(2, 10)]
    for do, by in kinds:
        workers = {"DATALOADER.NUM_WORKERS": 2 if by == "worker" else 0}
        fault = at("train_3", do, by)
        ended = play("train", tmp_path / f"{do} {by}", fault, workers, options=("--skip-test",))
        assert ended.code == 1, ended.said
        assert ERRORS[do] in ended.said
        assert "train_3.jpg" in ended.said or do == "MemoryError"
        assert len(ended.said) < 50_000
        assert ended.left_over == []
    record_fault(
        "Workers",
        "reading an image raises",
        made=f"{', '.join(ERRORS)}; in a loader process, and in the main process",
        promised="exit code 1, the error with the image; not the end of the data; nothing endless",
        tried=f"{len(kinds)} runs",
        happened="all ended with 1 and said it",
    )


@pytest.mark.parametrize(
    "command",
    [
        "train",
        pytest.param("train and score", marks=pytest.mark.endurance),
        pytest.param("eval", marks=pytest.mark.endurance),
    ],
)
def test_a_worker_that_hangs_ends_the_run_in_time_which_names_it_and_its_image(
    command: str,
    play: Any,
    tmp_path: Path,
    times: Any,
    record_fault: Any,
    request: pytest.FixtureRequest,
) -> None:
    hangs = HANGS[: times(1, len(HANGS))]
    limit = times(4, 10)
    settings = {"DISTRIBUTED.TIMEOUT": limit / 60}
    name, file = (TRAIN_IMAGE, "train_3") if command == "train" else (VAL_IMAGE, "val_2")
    options: tuple[str, ...] = ()
    if command == "eval":
        options = ("--weights", str(request.getfixturevalue("trained")))
    if command == "train and score":
        settings |= {"SOLVER.TEST_PERIOD": 2}
    seconds = []
    for do in hangs:
        folder = tmp_path / do
        ended = play(command.split()[0], folder, at(file, do), settings, options)
        assert ended.code == 1, ended.said
        assert re.search(
            rf"error: no progress for \d+ s: the process is in data[^(]*\({WORKER} has been "
            rf"reading {name} for \d+ s",
            ended.said,
        ), ended.said
        assert "image ids" not in ended.said
        assert ended.left_over == []
        seconds.append(ended.seconds)
    record_fault(
        "Workers",
        f"a loader process hangs ({command})",
        made=", ".join(hangs),
        promised="the run ends after DISTRIBUTED.TIMEOUT; names worker, image and how long",
        tried=f"{len(hangs)} runs, the limit at {limit} s",
        happened=f"all named; the slowest run was over after {max(seconds):.0f} s",
    )


def test_a_main_process_that_is_killed_leaves_no_worker_and_no_shared_memory(
    play: Any, tmp_path: Path, times: Any, record_fault: Any
) -> None:
    """While the workers are reading, handing batches over, or waiting for it."""
    before = shared_memory()
    number = times(1, 8)
    for trial in range(number):
        file = ["metrics.jsonl", "model_0000005.pth.tmp", "log.txt", "config.yaml"][trial % 4]
        workers = {"DATALOADER.NUM_WORKERS": 2 + trial % 3}
        fault = at(file, "SIGKILL", by="main")
        ended = play("train", tmp_path / str(trial), fault, workers, ("--skip-test",))
        assert ended.code == -9, ended.said
        assert ended.left_over == []
    assert shared_memory() <= before
    record_fault(
        "Workers",
        "the main process is killed",
        made="SIGKILL when it opens one of its files, with 2 to 4 loader processes",
        promised="within seconds no loader process and no shared memory is left",
        tried=f"{number} kills",
        happened="nothing was left",
    )

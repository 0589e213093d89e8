"""The same run twice: the same bits on a CPU with the same threads, whatever is around it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from families import FAMILIES, SMALL, add_keypoints
from fingerprint import fingerprint
from processes import ForkServer

pytestmark = pytest.mark.faults

PROGRAM = Path(__file__).parent / "training_program.py"
DATA_PROGRAM = Path(__file__).parent / "data_program.py"
MEMORY_DISK = Path("/dev/shm")


class Trial(NamedTuple):
    """How a run is made other than the first. environment: of its process."""

    what: str
    workers: int = 0
    environment: tuple[tuple[str, str], ...] = ()
    elsewhere: bool = False
    again: bool = False
    busy: bool = False
    new_interpreter: bool = False


TRIALS = (
    Trial(
        "another working folder, locale, time zone, user and temporary folder, and a loader worker",
        workers=1,
        environment=(("LC_ALL", "tr_TR.UTF-8"), ("TZ", "Asia/Kolkata"), ("USER", "x")),
        elsewhere=True,
    ),
    Trial("4 loader workers", workers=4),
    Trial("no loader worker, a second run in the same process", again=True),
    Trial("busy processors", workers=1, busy=True),
    Trial(
        "another PYTHONHASHSEED",
        environment=(("PYTHONHASHSEED", "4711"),),
        new_interpreter=True,
    ),
)


class Machine:
    """Runs trainings of one configuration in a folder. data: where its files are."""

    def __init__(self, server: ForkServer, config: Path, data: Path, folder: Path) -> None:
        self.server, self.config, self.data, self.folder = server, config, data, folder
        self._runs = 0

    def train(self, changes: dict[str, Any], threads: int, trial: Trial) -> dict[str, str]:
        """The fingerprint of such a run."""
        self._runs += 1
        folder = self.folder / f"run{self._runs}"
        place = folder.with_suffix(".place")
        place.mkdir(parents=True)
        arguments = self._arguments(changes | {"DATALOADER.NUM_WORKERS": trial.workers})
        folders = f"{folder}_before,{folder}" if trial.again else str(folder)
        environment = dict(trial.environment)
        if trial.elsewhere:
            environment["TMPDIR"] = tempfile.mkdtemp()  # a short name: sockets stand in it
        with busy_processors() if trial.busy else _nothing():
            if trial.new_interpreter:
                run_interpreter(PROGRAM, threads, folders, *arguments, environment=environment)
            else:
                process = self.server.start(
                    program=str(PROGRAM),
                    arguments=[str(threads), folders, *arguments],
                    output=f"{folder}.out",
                    environment=environment,
                    folder=str(place) if trial.elsewhere else "",
                )
                assert process.wait(600) == 0, Path(f"{folder}.out").read_text()
        found = fingerprint(folder)
        if trial.again:
            assert found == fingerprint(Path(f"{folder}_before"))
        for each in self.folder.glob(f"run{self._runs}*"):
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        return found

    def _arguments(self, changes: dict[str, Any]) -> list[str]:
        values = SMALL | {"DATASETS.ROOT": self.data} | changes
        pairs = [str(word) for pair in values.items() for word in pair]
        return ["train", "-c", str(self.config), *pairs]


def run_interpreter(program: Path, *arguments: object, environment: dict[str, str]) -> None:
    """As a process of its own, from the beginning."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    subprocess.run(
        [sys.executable, str(program), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path} | environment,
        check=True,
        capture_output=True,
        timeout=600,
    )


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def busy_processors() -> Iterator[None]:
    """A block in which other processes compute on every processor."""
    burn = "while True: pass"
    processes = [subprocess.Popen([sys.executable, "-c", burn]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for each in processes:
            each.kill()
            each.wait()


@pytest.fixture
def machine(
    fork_server: ForkServer, write_tiny_run: Callable[[Path], Path], tmp_path: Path
) -> Machine:
    (tmp_path / "data").mkdir()
    config = write_tiny_run(tmp_path / "data")
    for name in ("train", "val"):
        add_keypoints(tmp_path / f"data/{name}.json")
    return Machine(fork_server, config, tmp_path / "data", tmp_path)


def difference(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


@pytest.mark.endurance
@pytest.mark.timeout(3000)
def test_two_runs_leave_the_same_bits(
    machine: Machine, times: Callable[[int, int], int], record_fault: Callable[..., None]
) -> None:
    there = [each for each in FAMILIES if "timm" not in each or find_spec("timm")]
    families = there[: times(1, len(there))]
    of_threads = {2: list(TRIALS[: times(1, len(TRIALS))])}
    if times(0, 1):
        of_threads[1] = list(TRIALS[:2])
    pairs, compared = 0, 0
    for family in families:
        for threads, trials in of_threads.items():
            first = machine.train(FAMILIES[family], threads, Trial("first"))
            for trial in trials:
                found = machine.train(FAMILIES[family], threads, trial)
                assert difference(first, found) == [], (family, threads, trial.what)
                pairs += 1
                compared += len(found)
    ways = [each.what for each in of_threads[2]]
    record_fault(
        "Determinism",
        "the same run again",
        made=f"trained and scored twice, the second time with {'; '.join(ways)}; of "
        f"{'; '.join(families)}; {' and '.join(map(str, sorted(of_threads)))} threads",
        promised="the same bits on a CPU: weights, optimizer, averages, losses, scores, "
        "predictions, pictures",
        tried=f"{pairs} pairs of runs",
        happened=f"all the same, of {compared} states and files",
    )


@pytest.mark.timeout(600)
def test_the_order_of_files_on_a_disk_changes_nothing(
    fork_server: ForkServer,
    write_tiny_run: Callable[[Path], Path],
    tmp_path: Path,
    times: Callable[[int, int], int],
    record_fault: Callable[..., None],
) -> None:
    if not MEMORY_DISK.is_dir():
        pytest.skip(f"{MEMORY_DISK}, which lists files in the order of their making, is not there")
    write_folders(write_tiny_run, tmp_path / "data")
    seeds, made = times(1, 6), []
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK, prefix="detengine-test-") as disk:
        copies = [Path(disk) / name for name in ("disk1", "disk2")]
        copy_in_order(tmp_path / "data", copies[0], reverse=False)
        copy_in_order(tmp_path / "data", copies[1], reverse=True)
        listings = [os.listdir(copy / "voc/all") for copy in copies]  # noqa: PTH208
        assert listings[0] == listings[1][::-1] != listings[1]
        for copy in copies:
            output = tmp_path / f"{copy.name}.json"
            process = fork_server.start(
                program=str(DATA_PROGRAM),
                arguments=[str(copy), str(output)],
                output=f"{output}.out",
                environment={},
            )
            assert process.wait() == 0, Path(f"{output}.out").read_text()
            made.append(output.read_text())
        for seed in range(1, seeds):
            output = tmp_path / f"{seed}.json"
            run_interpreter(
                DATA_PROGRAM, copies[0], output, environment={"PYTHONHASHSEED": str(seed)}
            )
            made.append(output.read_text())
    folders = json.loads(made[0])
    assert [name for name, each in folders.items() if "refused" in each] == ["voc_doubtful"]
    assert len(set(made)) == 1
    record_fault(
        "Determinism",
        "the order of files on a disk, and of Python's sets",
        made="folders whose files were made in the opposite order, on a disk that lists them so; "
        "other values of PYTHONHASHSEED",
        promised="the same configuration, the same annotations, or the same refusal",
        tried=f"{len(made)} readings of {len(folders)} folders ({', '.join(folders)})",
        happened="all the same",
    )


def write_folders(write_tiny_run: Callable[[Path], Path], root: Path) -> None:
    """coco, voc (no lists), yolo (folders in folders), and voc_doubtful, with images twice."""
    tiny = root / "coco"
    tiny.mkdir(parents=True)
    write_tiny_run(tiny).unlink()
    shutil.move(tiny / "voc", root / "listed")
    for name in ("voc/all", "voc_doubtful/more", "voc_doubtful/pages", "yolo/images/a"):
        (root / name).mkdir(parents=True)
    (root / "yolo/images/b").mkdir()
    for number, image in enumerate(sorted((root / "listed/JPEGImages").iterdir())):
        page = root / "listed/Annotations" / f"{image.stem}.xml"
        for folder in (root / "voc/all", root / "yolo/images" / "ab"[number % 2]):
            shutil.copy(image, folder)
        shutil.copy(page, root / "voc/all")
    shutil.copy(page, root / "voc_doubtful/pages")
    shutil.copy(image, root / "voc_doubtful/more")
    image_again = root / "voc_doubtful/pages" / image.name
    shutil.copy(image, image_again)
    shutil.copy(image, image_again.with_suffix(".png"))
    shutil.copy(image, root / "voc_doubtful/more" / image_again.with_suffix(".png").name)
    shutil.rmtree(root / "listed")
    for image in (root / "yolo/images").rglob("*.jpg"):
        image.with_suffix(".txt").write_text("0 0.5 0.5 0.2 0.2\n1 0.3 0.3 0.2 0.1\n")
    (root / "yolo/classes.txt").write_text("disc\nbar\n")


def copy_in_order(source: Path, target: Path, *, reverse: bool) -> None:
    for path in sorted(source.rglob("*"), reverse=reverse):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)

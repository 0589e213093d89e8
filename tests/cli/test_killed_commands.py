"""Commands that write files, killed by `kill -9`: what has its final name is whole."""

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from signal import SIGKILL

import pytest
import torch
from PIL import Image

from detengine.evaluation.predictions_file import load_predictions
from processes import ForkServer, Process

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]

UNFINISHED = (".tmp", ".part")


class Commands:
    """Starts commands, and kills them within the time that they take."""

    def __init__(self, server: ForkServer, folder: Path) -> None:
        self.server, self.output = server, folder / "output.txt"

    def run(self, *arguments: object) -> float:
        """Its seconds."""
        begin = time.monotonic()
        assert self._start(arguments).wait() == 0, self.output.read_text()
        return time.monotonic() - begin

    def kill(self, seconds: float, *arguments: object) -> int:
        """Its exit code, killed after so many seconds."""
        process = self._start(arguments)
        time.sleep(seconds)
        process.signal(SIGKILL)
        return process.wait()

    def _start(self, arguments: Sequence[object]) -> Process:
        words = [str(each) for each in arguments]
        return self.server.start(arguments=words, output=str(self.output), environment={})


@pytest.fixture
def commands(fork_server: ForkServer, tmp_path: Path) -> Commands:
    return Commands(fork_server, tmp_path)


def raise_if_half(folder: Path) -> Counter[str]:
    """Read every file of the folder that has its final name; gives their number by suffix."""
    read: Counter[str] = Counter()
    for path in folder.rglob("*"):
        if path.suffix in UNFINISHED or not path.is_file():
            continue
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix in (".png", ".jpg"):
            with Image.open(path) as picture:
                picture.load()
        elif path.suffix == ".pth":
            list(load_predictions(path))
        elif path.suffix == ".onnx":
            pytest.importorskip("onnxruntime").InferenceSession(path)
        read[path.suffix] += 1
    return read


@pytest.mark.endurance
def test_a_killed_evaluation_is_gone_on_with_and_gives_the_scores_of_an_unbroken_one(
    commands: Commands,
    finished_run: Path,
    tiny_config: Path,
    tmp_path: Path,
    times: Callable[[int, int], int],
    record_fault: Callable[..., None],
) -> None:
    sets = ("DATASETS.TEST", "[shapes_train, shapes_val]", "TEST.IMS_PER_BATCH", "1")
    command = ("eval", "-c", tiny_config, "--weights", finished_run / "model_final.pth", *sets)
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    seconds = commands.run(*command, "--output-dir", unbroken)
    moments, kills, codes = random.Random(0), times(1, 12), Counter[int]()
    for _ in range(kills):
        delay = moments.uniform(0.2, 0.9) * seconds
        codes[commands.kill(delay, *command, "--resume", "--output-dir", broken)] += 1
        raise_if_half(broken)
    commands.run(*command, "--resume", "--output-dir", broken)
    assert set(codes) <= {-SIGKILL, 0}
    assert (broken / "results.json").read_bytes() == (unbroken / "results.json").read_bytes()
    for name in ("shapes_train", "shapes_val"):
        found, known = (
            dict(load_predictions(each / "inference" / name)) for each in (broken, unbroken)
        )
        assert found.keys() == known.keys()
        for image_id, prediction in found.items():
            assert torch.equal(prediction.boxes_xyxy, known[image_id].boxes_xyxy)
            assert prediction.rles == known[image_id].rles
    assert not [path for path in broken.rglob("*") if path.suffix in UNFINISHED]
    record_fault(
        "Crashes",
        "`detengine eval` is killed",
        made="`kill -9` at random moments, again and again in the same folder, with --resume",
        promised="no half file under a final name; gone on with, it gives the scores and the "
        "predictions of an unbroken evaluation",
        tried=f"{codes[-SIGKILL]} kills",
        happened="every file whole; the same scores and predictions, bit for bit",
    )


@pytest.mark.endurance
def test_a_killed_prediction_leaves_whole_pictures_and_no_half_json(
    commands: Commands,
    finished_run: Path,
    tiny_config: Path,
    tmp_path: Path,
    times: Callable[[int, int], int],
    record_fault: Callable[..., None],
) -> None:
    images = tmp_path / "images"
    for copy in range(times(1, 3)):
        shutil.copytree(tiny_config.parent / "images", images / str(copy))
    command = ("predict", finished_run, images, "--score-threshold", "0", "--device", "cpu")
    seconds = commands.run(*command, "--output-dir", tmp_path / "unbroken")
    whole = raise_if_half(tmp_path / "unbroken")
    moments, kills, done, codes = random.Random(1), times(1, 12), Counter[str](), Counter[int]()
    for kill in range(kills):
        folder = tmp_path / f"killed_{kill}"
        delay = moments.uniform(0.3, 0.95) * seconds
        codes[commands.kill(delay, *command, "--output-dir", folder)] += 1
        done += raise_if_half(folder)
    assert set(codes) <= {-SIGKILL, 0}
    assert done[".json"] == codes[0]  # only of those that had ended before
    record_fault(
        "Crashes",
        "`detengine predict` is killed",
        made="`kill -9` at random moments",
        promised="no half picture and no half json under a final name",
        tried=f"{codes[-SIGKILL]} kills, with {done['.jpg']} of {kills * whole['.jpg']} pictures "
        "written until then",
        happened="every picture whole",
    )


@pytest.mark.endurance
def test_a_killed_export_leaves_no_half_file(
    commands: Commands,
    finished_run: Path,
    tmp_path: Path,
    record_fault: Callable[..., None],
) -> None:
    pytest.importorskip("onnxruntime")
    target = tmp_path / "out.onnx"
    command = ("export", finished_run, target, "--overwrite")
    seconds = commands.run(*command)
    before, kills, moments, codes = target.read_bytes(), 6, random.Random(2), Counter[int]()
    for _ in range(kills):
        codes[commands.kill(moments.uniform(0.2, 1.0) * seconds, *command)] += 1
        assert len(target.read_bytes()) == len(before)
        raise_if_half(tmp_path)
    record_fault(
        "Crashes",
        "`detengine export` is killed",
        made="`kill -9` at random moments, over a file that is there",
        promised="the old file or the new one, whole",
        tried=f"{codes[-SIGKILL]} kills",
        happened="each time a file that onnxruntime opens",
    )

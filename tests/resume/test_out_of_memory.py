"""A run whose memory is not enough says what for, leaves a whole checkpoint, and is resumed."""

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from signal import SIGABRT, SIGKILL, SIGSEGV
from typing import Any

import pytest
import torch.distributed as dist
from PIL import Image

import detengine
from detengine.checkpoint.files import load_file
from kills import scores_differ

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

GREEDY = {
    "MODEL.BUILDER": "tiny_detectors:greedy",
    "SOLVER.MAX_ITER": 12,
    "SOLVER.TEST_PERIOD": 6,
    "SOLVER.CHECKPOINT_PERIOD": 5,
    "SOLVER.EMA_DECAY": 0.9,
    "SOLVER.EMA_WARMUP_ITERS": 30,
}
PLACES = {
    "forward 8": r"in forward \(.*image ids \[\d+(, \d+)?\], iteration 8, images of \d+ x \d+",
    "backward 8": r"in backward \(.*image ids \[\d+(, \d+)?\], iteration 8, images of \d+ x \d+",
    "optimizer 8": r"in the optimizer step \(.*image ids \[\d+(, \d+)?\], iteration 8, images of ",
    "evaluation 2": r"in forward, in evaluation \(.*image ids \[\d+\], iteration 6, images of ",
}
REAL = {"SOLVER.MAX_ITER": 12, "SOLVER.TEST_PERIOD": 4, "TEST.LOSS": True}
LIBRARIES_DIE_BY = (-SIGSEGV, -SIGABRT, 127)
"""oneDNN, the allocator of threads' data (127) and Rust do, and nobody in Python can speak then."""
TWO_RANKS = dist.is_available() and dist.is_gloo_available()


def raise_if_not_told(output: str) -> None:
    """Raise AssertionError unless the output ends with the paragraph, and has no traceback."""
    assert "Traceback" not in output, output
    [told] = re.findall(
        r"^error(?: on rank \d)?: the memory is not enough.*$", output, re.MULTILINE
    )
    assert "SOLVER.IMS_PER_BATCH" in told
    assert "DATALOADER.NUM_WORKERS" in told


def raise_if_not_whole(folder: Path) -> None:
    for path in folder.glob("*.pth"):
        load_file(path)  # verifies its checksum


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.endurance)])
def test_a_device_without_memory_ends_all_ranks_with_the_step_and_its_images(
    ranks: int,
    new_run: Any,
    unbroken: Any,
    differences: Any,
    times: Callable[[int, int], int],
    record_fault: Callable[..., None],
) -> None:
    if ranks > 1 and not TWO_RANKS:
        pytest.skip("this torch has no gloo to join two processes with")
    expected = unbroken(GREEDY, scored=True, ranks=ranks)
    cases = [(place, rank) for place in PLACES for rank in range(ranks)]
    cases = random.Random(ranks).sample(cases, times(1, len(cases)))
    for place, rank in cases:
        run = new_run(GREEDY)
        processes = [
            run.start(scored=True, environment=environment | {"GREEDY": f"{place} {rank}"})
            for environment in run.environments(ranks)
        ]
        assert [process.wait() for process in processes] == [1] * ranks, run.output()
        raise_if_not_told(run.output())
        assert re.search(f"not enough, {PLACES[place]}.*2.50 GiB", run.output()), run.output()
        raise_if_not_whole(run.folder)
        assert run.last_checkpoint() == "model_0000005.pth"
        assert run.train_ranks(ranks, resume=True, scored=True) == [0] * ranks, run.output()
        assert differences(run, expected) == []
        assert scores_differ(run, expected) == []
    record_fault(
        "Memory",
        f"a GPU has no memory left, {'one process' if ranks == 1 else 'on one of two ranks'}",
        made="a detector that raises torch.OutOfMemoryError in its forward, its backward, the "
        "optimizer's step or an evaluation",
        promised="all ranks end with the step, its images and their sizes, and the cure; the "
        "checkpoint before is whole",
        tried=f"{len(cases)} places",
        happened="one paragraph each, exit code 1; resumed, the same bits",
    )


def test_under_a_limit_a_run_says_what_memory_was_for_and_is_resumed_with_the_same_bits(
    new_run: Any,
    unbroken: Any,
    differences: Any,
    times: Callable[[int, int], int],
    record_fault: Callable[..., None],
) -> None:
    """`ulimit -v`, from nothing more than is there to enough, at the start and at later lines."""
    expected = unbroken(REAL, scored=True)
    largest = {"": 80, "Start training": 64, "iter: 7 ": 24, "Start evaluation": 24}
    steps = (0, 2, 4, 8, 12, 16, 24, 32, 40, 56, 64, 80)
    cases = [(at, step) for at, most in largest.items() for step in steps if step <= most]
    quick = [("Start evaluation", 1), ("iter: 7 ", 0)]
    ends: Counter[str] = Counter()
    for pattern, mebibytes in cases if times(0, 1) else quick:
        run = new_run(REAL)
        code = run.train(scored=True, memory_at=(pattern, mebibytes << 20))
        ends["told" if code == 1 else "finished" if code == 0 else "died"] += 1
        assert code in (0, 1, *LIBRARIES_DIE_BY), run.output()
        if code == 1:
            raise_if_not_told(run.output())
        raise_if_not_whole(run.folder)
        assert run.train(resume=True, scored=True) == 0, run.output()
        assert differences(run, expected) == []
        assert scores_differ(run, expected) == []
    assert ends["told"] > 2 * ends["died"]
    record_fault(
        "Memory",
        "the host has no memory left",
        made="a limit of the process's addresses (`ulimit -v`), 0 to 80 MiB above what it has at "
        "its start, at the training's, in it and in an evaluation",
        promised="one paragraph that says what it was for, where Python can still speak; the "
        "checkpoint before is whole, and resuming ends with the same bits",
        tried=f"{ends.total()} limits",
        happened=f"{ends['told']} ended with the paragraph, {ends['finished']} had enough, in "
        f"{ends['died']} a library in C died of it without a word; all resumed to the same bits",
    )


@pytest.mark.endurance
def test_a_loading_process_without_memory_for_an_image_names_it(
    write_tiny_run: Callable[[Path], Path],
    tmp_path: Path,
    new_run: Any,
    differences: Any,
    times: Callable[[int, int], int],
    record_fault: Callable[..., None],
) -> None:
    """One image of 144 MB among others, under a limit that a training step has enough with."""
    config = write_tiny_run(tmp_path)
    put_large_image(tmp_path, "train_3.jpg", (8000, 6000))
    workers = [0, 2][: times(1, 2)]
    settings = {
        "SOLVER.MAX_ITER": 6,
        "SOLVER.CHECKPOINT_PERIOD": 1,
        "MODEL.BUILDER": "tiny_detectors:without_randomness",
    }
    expected = new_run(settings)
    expected.config = config
    assert expected.train() == 0, expected.output()
    for number in workers:
        run = new_run(settings | {"DATALOADER.NUM_WORKERS": number})
        run.config = config
        assert run.train(memory_at=("Start training", 300 << 20)) == 1, run.output()
        raise_if_not_told(run.output())
        assert re.search(r"in data.*not enough of it to decode .*large\.png", run.output())
        assert run.train(resume=True) == 0, run.output()
        assert differences(run, expected) == []
    record_fault(
        "Memory",
        "no memory to decode an image",
        made="an image of 48 megapixels under a limit of addresses, in the main process and in a "
        "loader's",
        promised="one paragraph that names the image, never that it is damaged",
        tried=f"{len(workers)} trainings",
        happened="it is named; resumed without the limit, the same bits",
    )


def put_large_image(folder: Path, name: str, size: tuple[int, int]) -> None:
    """Put a picture of that (width, height) in the place of another, whose objects stay."""
    Image.new("RGB", size, (30, 35, 45)).save(folder / "images/large.png", compress_level=1)
    path = folder / "train.json"
    content = json.loads(path.read_text())
    [image] = [each for each in content["images"] if each["file_name"] == name]
    image |= {"file_name": "large.png", "width": size[0], "height": size[1]}
    path.write_text(json.dumps(content))


@pytest.mark.endurance
def test_a_shared_memory_that_is_too_small_is_told_apart(
    new_run: Any, unbroken: Any, differences: Any, record_fault: Callable[..., None]
) -> None:
    """A /dev/shm of its own, of a page to two megabytes, as a container has it."""
    own = ["unshare", "--mount", "sh", "-c"]
    mount = "mount -t tmpfs -o size=$0 tmpfs /dev/shm"
    if subprocess.run([*own, mount, "1m"], capture_output=True).returncode:
        pytest.skip("this process may not mount a small /dev/shm of its own")
    settings = {"DATALOADER.NUM_WORKERS": 2, "SOLVER.MAX_ITER": 10}
    environment = os.environ | {
        "PYTHONPATH": str(Path(detengine.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    sizes = ("4k", "1m", "2m")
    for size in sizes:
        run = new_run(settings)
        arguments = run.arguments(resume=False, scored=False, settings={})
        command = [*own, f'{mount} && exec "$@"', size, sys.executable, "-m", "detengine"]
        ended = subprocess.run(
            [*command, *arguments],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert ended.returncode == 1, ended.stdout
        raise_if_not_told(ended.stdout)
        assert "/dev/shm" in ended.stdout
        raise_if_not_whole(run.folder)
        assert run.train(resume=True) == 0, run.output()
        assert differences(run, unbroken(settings)) == []
    record_fault(
        "Memory",
        "/dev/shm is too small for the loader's batches",
        made=f"a file system of {', '.join(sizes)} in its place, two loader processes",
        promised="one paragraph that says that it is shared memory, and the cure",
        tried=f"{len(sizes)} trainings",
        happened="all told; resumed with enough, the same bits",
    )


def test_a_loading_process_that_is_killed_for_its_memory_is_named(
    new_run: Any,
    unbroken: Any,
    differences: Any,
    times: Callable[[int, int], int],
    record_fault: Callable[..., None],
) -> None:
    """By SIGKILL, which is what the system's killer sends."""
    settings = {"DATALOADER.NUM_WORKERS": 2}
    kills = times(1, 8)
    for number in range(kills):
        run = new_run(settings)
        process = run.start()
        run.wait_for(f"iter: {3 + 4 * number} ")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[number % 2]), SIGKILL)
        assert process.wait() == 1, run.output()
        assert "Traceback" not in run.output()
        assert re.search(r"error: data-loader worker \d .*DATALOADER.NUM_WORKERS", run.output())
        raise_if_not_whole(run.folder)
        assert run.train(resume=True) == 0, run.output()
        assert differences(run, unbroken()) == []
    record_fault(
        "Memory",
        "the system's killer takes a loader process",
        made="SIGKILL, as it sends it, to one of two loader processes of a training",
        promised="the run ends with that process, the image that it was at, and the cure",
        tried=f"{kills} kills",
        happened="all named; resumed, the same bits",
    )

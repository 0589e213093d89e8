"""Two runs in one folder, what a killed one leaves, and folders that are none."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

import detengine

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1_000)]


def test_of_two_runs_in_one_folder_the_second_is_refused_and_the_first_ends_as_if_alone(
    new_run: Any, unbroken: Any, differences: Any, times: Any, record_fault: Any
) -> None:
    count = times(1, 10)
    for number in range(count):
        first, second = new_run(), new_run()
        second.folder = first.folder
        process = first.start()
        first.wait_for(f"iter: {1 + 2 * number} ")
        assert second.train(resume=bool(number % 2)) == 1
        said = rf"is being trained in by another process \(process {process.pid} on .*OUTPUT_DIR"
        assert re.search(said, second.output()) or "holds a run already" in second.output()
        assert process.wait() == 0, first.output()
        assert differences(first, unbroken()) == []
    record_fault(
        "Disks",
        "two runs in one OUTPUT_DIR",
        made="a second one is started while the first trains, also with --resume",
        promised="the second is refused, the first ends as if it were alone",
        tried=f"{count} pairs",
        happened="refused each time; the first bit-identical to an unbroken run",
    )


@pytest.mark.endurance
def test_a_lock_of_a_killed_run_holds_nothing(
    new_run: Any, unbroken: Any, differences: Any, times: Any, record_fault: Any
) -> None:
    count = times(1, 5)
    for number in range(count):
        run = new_run()
        assert run.train(signal_at=(f"iter: {10 + number} ", SIGKILL)) == -SIGKILL
        assert (run.folder / "run.lock").is_file()
        if number:  # of another machine, or cut off
            (run.folder / "run.lock").write_bytes(b"process 1 on elsewhere\n"[: 5 * number])
        assert run.train(resume=True) == 0, run.output()
        assert not (run.folder / "run.lock").exists()
        assert differences(run, unbroken()) == []
    record_fault(
        "Disks",
        "the run.lock of a killed run",
        made="SIGKILL; the file stays, as it was or cut off",
        promised="--resume goes on",
        tried=f"{count} kills",
        happened="bit-identical to an unbroken run",
    )


def _a_file(place: Path) -> None:
    place.write_text("")


def _a_dangling_link(place: Path) -> None:
    place.symlink_to(place.with_name("nowhere"))


def _a_loop(place: Path) -> None:
    place.symlink_to(place)


def _an_immutable_folder(place: Path) -> None:
    place.mkdir()
    subprocess.run(["chattr", "+i", str(place)], check=True)


def test_what_is_no_folder_to_write_to_is_refused(
    new_run: Any, new_disk: Any, times: Any, record_fault: Any
) -> None:
    cases = [_a_loop, _a_file, _a_dangling_link, _an_immutable_folder][: times(1, 4)]
    for make in cases:
        disk = new_disk(16_000, "ext4" if make is _an_immutable_folder else "tmpfs")
        make(disk.place / "out")
        for folder in (disk.place / "out", disk.place / "out/run"):
            run = new_run()
            run.folder = folder
            assert run.train() == 1
            said = rf"^error: the output folder {folder} cannot be .*OUTPUT_DIR"
            assert re.search(said, run.output()), run.output()
            assert "Traceback" not in run.output()
    record_fault(
        "Disks",
        "OUTPUT_DIR is no folder, or one that cannot be written to",
        made="a file, a dangling link, a link to itself, a folder with chattr +i; and below these",
        promised="refused before anything is read",
        tried=f"{2 * len(cases)} folders",
        happened="refused, with the cure",
    )


@pytest.mark.endurance
def test_a_folder_without_permission_is_refused(
    new_run: Any, tmp_path: Path, record_fault: Any
) -> None:
    if not shutil.which("setpriv") or os.getuid():
        pytest.skip("to be done by root, who lets go of its rights by setpriv")
    (tmp_path / "out").mkdir(mode=0o555)
    modest = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    for folder in (tmp_path / "out", tmp_path / "out/run"):
        run = new_run()
        run.folder = folder
        command = [*modest, sys.executable, "-m", "detengine"]
        command += run.arguments(resume=False, scored=False, settings={})
        environment = os.environ | {"PYTHONPATH": str(Path(detengine.__file__).parents[1])}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 1
        assert re.search(r"^error: the output folder .* cannot be .*OUTPUT_DIR", done.stderr)
    record_fault(
        "Disks",
        "OUTPUT_DIR without the permission to write",
        made="mode 555, by a process without root's rights",
        promised="refused before anything is read",
        tried="the folder, and one in it",
        happened="refused, with the cure",
    )

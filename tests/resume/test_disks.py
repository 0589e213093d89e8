"""A training whose disk is full, fails, becomes read-only or is gone: it ends clearly and goes on.

Full ones are real file systems; others fail calls to the system (sick_disk.py).
"""

import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from detengine.checkpoint.files import load_file
from full_disk import Disk, assert_all_is_whole, chosen

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3_000)]

SETTINGS = {
    "SOLVER.MAX_ITER": 8,
    "SOLVER.CHECKPOINT_PERIOD": 4,
    "SOLVER.TEST_PERIOD": 4,
    "SINKS": ("tensorboard",),
    "TEST.PICTURES": 1,
    "REPORT": True,
}
"""All that a run writes, twice."""
PAGES = 400
"""More than such a run has: then it ends well."""
SYSTEM_CALLS = 130
"""That such a run makes to write."""
SICK = Path(__file__).parents[1] / "sick_disk.py"


def start_sick(run: Any, call: int, *, error: str = "EIO", lasts: bool = False) -> int:
    """Train on a disk that fails at such a call; the exit code."""
    environment = {
        "SICK_FOLDER": str(run.folder),
        "SICK_AT": str(call),
        "SICK_ERROR": error,
        "SICK_LASTS": str(int(lasts)),
        "SICK_COUNT": str(run.folder.with_suffix(".calls")),
    }
    arguments = run.arguments(resume=False, scored=True, settings={})
    output = str(run.output_path)
    started = run.server.start(
        program=str(SICK), arguments=arguments, output=output, environment=environment
    )
    return int(started.wait())


def assert_ended_clearly(run: Any, cause: str) -> None:
    """One paragraph: which file, why, what there is, and the cure."""
    output = run.output()
    assert "Traceback" not in output
    last = output.rstrip().splitlines()[-1]
    expected = rf"^error: (cannot (write|remove) \S+|the output folder .* cannot be made): {cause}"
    assert re.search(expected, last), last
    assert "OUTPUT_DIR" in last


def assert_goes_on(run: Any, unbroken: Any, differences: Any) -> None:
    assert run.train(resume=True, scored=True) == 0, run.output()
    assert differences(run, unbroken(SETTINGS, scored=True)) == []
    assert_all_is_whole(run.folder)


@pytest.mark.endurance
def test_full_at_any_page_a_training_ends_clearly_and_goes_on_bit_identically(
    new_disk: Any, new_run: Any, unbroken: Any, differences: Any, times: Any, record_fault: Any
) -> None:
    codes = []
    for pages in chosen(times(1, 40), PAGES, [112, 4, 108, 133, 259, 265, 1, PAGES]):
        disk = new_disk(pages)
        run = new_run(SETTINGS)
        run.folder = disk.place / "run"
        codes.append(run.train(scored=True))
        assert_all_is_whole(run.folder)
        if codes[-1]:
            assert_ended_clearly(run, "No space left on device; .* MiB are free in .*; make room")
        assert run.output().count("cannot write log.txt") <= 1
        disk.remount("size=64m")
        assert_goes_on(run, unbroken, differences)
        disk.vanish()
    record_fault(
        "Disks",
        "OUTPUT_DIR is full",
        made="a tmpfs on which so many pages of 4 KiB are free",
        promised="a clear end, nothing half written; with room, --resume ends bit-identical",
        tried=f"{len(codes)} numbers of pages from 1 to {PAGES}",
        happened=f"{sum(codes)} ended with the error and went on, {codes.count(0)} had room enough",
    )


@pytest.mark.endurance
@pytest.mark.parametrize("lasts", [False, True])
def test_whichever_call_the_disk_fails_a_training_ends_clearly_and_goes_on_bit_identically(
    lasts: bool, new_run: Any, unbroken: Any, differences: Any, times: Any, record_fault: Any
) -> None:
    codes = []
    for call in chosen(times(1, 30), SYSTEM_CALLS, [36, 81, 123]):
        run = new_run(SETTINGS)
        codes.append(start_sick(run, call, lasts=lasts))
        if run.folder.is_dir() and not lasts:
            assert_all_is_whole(run.folder)
        assert "Traceback" not in run.output()
        if codes[-1]:
            assert_ended_clearly(run, "Input/output error")
        assert_goes_on(run, unbroken, differences)
        shutil.rmtree(run.folder)
    then = "all after it" if lasts else "it alone"
    record_fault(
        "Disks",
        f"fsync, rename, open, mkdir or unlink fails, and {then}",
        made="the n-th such call in OUTPUT_DIR gives EIO, as a network file system's may",
        promised="a clear end, or a warning where a record is optional; --resume: bit-identical",
        tried=f"{len(codes)} n from 1 to {SYSTEM_CALLS}",
        happened=f"{sum(codes)} ended with the error, {codes.count(0)} with a warning; all went on",
    )


def _removed(disk: Disk, folder: Path) -> None:
    shutil.rmtree(folder)


def _unmounted(disk: Disk, folder: Path) -> None:
    disk.vanish()


def _read_only(disk: Disk, folder: Path) -> None:
    """As a disk with errors makes itself."""
    disk.remount("abort")


@pytest.mark.parametrize(
    "fault",
    [
        _unmounted,
        pytest.param(_removed, marks=pytest.mark.endurance),
        pytest.param(_read_only, marks=pytest.mark.endurance),
    ],
)
def test_a_disk_that_is_gone_in_the_middle_of_a_training_ends_it_clearly(
    fault: Any, new_disk: Any, new_run: Any, times: Any, record_fault: Any
) -> None:
    for _ in range(times(1, 5)):
        disk = new_disk(16_000, "ext4" if fault is _read_only else "tmpfs")
        run = new_run(SETTINGS | {"SOLVER.MAX_ITER": 4_000, "SOLVER.LOG_PERIOD": 1})
        run.folder = disk.place if fault is _unmounted else disk.place / "run"
        process = run.start(scored=True)
        run.wait_for("saved .*model_0000004")
        fault(disk, run.folder)
        assert process.wait() == 1
        assert_ended_clearly(run, ".*")
        if fault is not _read_only:
            assert not run.folder.exists() or not list(run.folder.glob("model_*"))
        else:
            assert_all_is_whole(run.folder)
    record_fault(
        "Disks",
        f"OUTPUT_DIR is {fault.__name__.strip('_').replace('_', '-')} while a training goes on",
        made={"_removed": "rm -rf", "_unmounted": "umount -l"}.get(
            fault.__name__, "an ext4 in a file, mount -o remount,abort"
        ),
        promised="a clear end at the next log line; nothing goes on in another place",
        tried=f"{times(1, 5)} times",
        happened="ended with exit code 1 and the reason",
    )


def test_read_only_from_the_start_is_refused(
    new_disk: Any, new_run: Any, record_fault: Any
) -> None:
    disk = new_disk(100)
    disk.remount("ro")
    run = new_run(SETTINGS)
    for folder in (disk.place, disk.place / "run", disk.place / "a/run"):
        run.folder = folder
        run.output_path.unlink(missing_ok=True)
        assert run.train(scored=True) == 1
        assert re.search(r"^error: the output folder .* cannot be .*OUTPUT_DIR", run.output())
    record_fault(
        "Disks",
        "OUTPUT_DIR is read-only from the start",
        made="mount -o remount,ro",
        promised="refused before anything is read",
        tried="the file system's folder, one in it, one in that",
        happened="refused, with the cure",
    )


def test_images_that_are_gone_in_the_middle_end_a_training_with_their_name(
    new_disk: Any, new_run: Any, tiny_config: Path, times: Any, record_fault: Any
) -> None:
    count = times(1, 4)
    for number in range(count):
        disk = new_disk(1_000)
        shutil.copytree(tiny_config.parent / "images", disk.place / "images")
        workers = number % 2
        settings = {"DATASETS.DEFINE.shapes_train.IMAGES": disk.place / "images"}
        run = new_run(settings | {"SOLVER.MAX_ITER": 4_000, "DATALOADER.NUM_WORKERS": workers})
        process = run.start()
        run.wait_for("saved .*model_0000005")
        (_unmounted if number < 2 else _removed)(disk, disk.place / "images")
        assert process.wait() == 1
        output = run.output()
        assert "Traceback" not in output
        assert re.search(r"error: .*images/train_\d\.jpg does not exist", output), output[-500:]
        assert load_file(run.folder / run.last_checkpoint())
    record_fault(
        "Disks",
        "the images' disk is gone while a training goes on",
        made="umount -l, or rm -rf, of their folder, without and with loading processes",
        promised="a clear end that names an image; the last checkpoint is whole",
        tried=f"{count} times",
        happened="ended so",
    )


def test_a_log_that_cannot_be_written_any_more_is_one_warning(
    new_run: Any, record_fault: Any
) -> None:
    run = new_run(SETTINGS | {"REPORT": False, "SINKS": ()})
    run.folder.mkdir()
    try:
        os.mknod(run.folder / "log.txt", stat.S_IFCHR | 0o666, Path("/dev/full").stat().st_rdev)
    except PermissionError as error:
        pytest.skip(f"no device can be made here: {error}")
    assert run.train() == 0, run.output()
    assert run.output().count("cannot write log.txt: No space left on device") == 1
    assert "Traceback" not in run.output()
    record_fault(
        "Disks",
        "log.txt cannot be written any more",
        made="it is the device /dev/full",
        promised="one warning; the log goes on at the console",
        tried="every line of a run",
        happened="one warning, exit code 0",
    )


def test_a_folder_in_a_files_place_is_named(new_run: Any, times: Any) -> None:
    for name in ("metrics.jsonl", "log.txt", "config.yaml", "run.lock")[: times(1, 4)]:
        run = new_run(SETTINGS)
        (run.folder / name).mkdir(parents=True)
        assert run.train() == 1
        assert_ended_clearly(run, "Is a directory")
        assert f"cannot write {name}" in run.output()

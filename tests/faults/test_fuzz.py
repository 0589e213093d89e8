"""Readers of files from anywhere: tests/fuzz's kept cases and, for minutes, atheris's search."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from driver import CASES, Target, replay

pytestmark = pytest.mark.faults

PROGRAMS = Path(__file__).parents[1] / "fuzz"
READERS = sorted(path.stem.removeprefix("fuzz_") for path in PROGRAMS.glob("fuzz_*.py"))
SECONDS = 600
"""Of search, for each reader."""
STARTING = 120
"""Seconds that the program may take beyond those, on a busy machine."""
MADE = {
    "checkpoints": "values, opcodes, entries and bytes of .pth, .pkl and .safetensors changed",
    "coco": "trees and words of small COCO files changed",
    "lvis": "trees and words of small LVIS files changed",
    "packed": "heads and columns of packed annotations changed, their checksums made right",
    "predictions": "values, opcodes, entries and bytes of stored predictions changed",
    "results": "trees and words of COCO's results, with names and without, changed",
    "rle": "run lengths and polygons changed",
    "voc": "elements and words of VOC's xml and lists changed",
    "yaml": "words of configurations changed",
    "yolo": "words of labels, lists of images and data.yaml changed",
}
PROMISED = "a whole value, or one clear paragraph that names the file"
ORACLES = {
    "coco": "; read typed, in pieces and one by one alike; salvage names what is refused",
    "rle": "; what maskApi.c reads and pycocotools writes",
    "voc": "; salvage names what is refused",
    "yaml": "; written and read again, it is the same",
    "yolo": "; salvage names what is refused",
}
DONE = re.compile(r"^Done (\d+) runs in (\d+) second", re.MULTILINE)
FOUND = re.compile(r"^FOUND (.*)$", re.MULTILINE)


def target_of(reader: str) -> Target:
    target: Target = importlib.import_module(f"fuzz_{reader}").TARGET
    return target


def cases_of(reader: str) -> list[Path]:
    return sorted((CASES / reader).glob("*"))


def test_files_that_once_broke_a_reader_do_not_any_more(
    tmp_path: Path, record_fault: Callable[..., None]
) -> None:
    files = [(reader, path) for reader in READERS for path in cases_of(reader)]
    broken = []
    for reader, path in files:
        folder = tmp_path / reader
        folder.mkdir(exist_ok=True)
        try:
            replay(target_of(reader), path.read_bytes(), folder)
        except Exception as error:
            broken.append(f"{reader}/{path.name}: {error!r:.500}")
    assert not broken, "\n".join(broken)
    record_fault(
        "Data",
        "files that once broke a reader",
        made="small ones, kept in tests/fuzz/cases",
        promised=PROMISED,
        tried=f"{len(files)} files, {len(READERS)} readers",
        happened="held for all",
    )


@pytest.mark.parametrize("reader", READERS)
def test_what_mutations_begin_with_breaks_no_reader(reader: str, tmp_path: Path) -> None:
    target = target_of(reader)
    for seed in target.seeds():
        replay(target, seed, tmp_path)


@pytest.mark.endurance
@pytest.mark.timeout(SECONDS + 2 * STARTING)
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="needs atheris: pip install -e '.[fuzz]'"
)
@pytest.mark.parametrize("reader", READERS)
def test_no_mutated_file_breaks_a_reader(
    reader: str,
    tmp_path: Path,
    times: Callable[[int, int], int],
    record_fault: Callable[..., None],
) -> None:
    seconds = int(os.environ.get("FUZZ_SECONDS", times(5, SECONDS)))
    program = PROGRAMS / f"fuzz_{reader}.py"
    ended = subprocess.run(
        [sys.executable, program, f"-max_total_time={seconds}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + STARTING,
    )
    printed = ended.stdout + ended.stderr
    assert not FOUND.findall(printed), "\n".join(FOUND.findall(printed))
    done = DONE.search(printed)
    assert done, printed[-3000:]
    assert ended.returncode == 0, printed[-3000:]
    record_fault(
        "Data",
        f"mutated files, coverage-guided: {reader}",
        made=MADE[reader],
        promised=PROMISED + ORACLES.get(reader, ""),
        tried=f"{int(done[1]):,} files in {done[2]} s",
        happened="held for all",
    )

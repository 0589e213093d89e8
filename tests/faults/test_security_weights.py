"""Weights from anybody: nothing in them runs, and none hangs, crashes or fills a process."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from detengine.checkpoint.conventions import raise_if_conventions_differ
from detengine.config.load import load_config, parse_config, to_yaml
from detengine.evaluation.predictions_file import load_predictions
from fault_record import Record
from faults.hostile_weights import HIDDEN, archive_of, pickles, write_all
from processes import ForkServer

pytestmark = pytest.mark.faults

READER = Path(__file__).parent / "reading_program.py"
_MOST_MIB = 300


def test_files_of_weights_that_mean_harm_are_each_refused_in_a_sentence(
    tmp_path: Path,
    fork_server: ForkServer,
    times: Callable[[int, int], int],
    record_fault: Record,
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    written = write_all(folder)
    number = times(20, len(written))
    kept = written[:: -(-len(written) // number)]
    for path in written:
        if path not in kept:
            path.unlink()
    arguments = [str(folder), str(tmp_path / "log")]
    process = fork_server.start(
        program=str(READER), arguments=arguments, output=str(tmp_path / "output"), environment={}
    )
    code = process.wait(120)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert code == 0, f"{lines[-1:]} was the last; {(tmp_path / 'output').read_text()}"
    *found, (_, grown) = lines
    assert len(found) == len(kept)
    unrefused = [name for name, message in found if message == "read"]
    assert unrefused == []
    assert [name for name, message in found if str(folder / name) not in message] == []
    assert not (folder / HIDDEN).exists()
    assert not (tmp_path / HIDDEN).exists()
    assert grown < _MOST_MIB
    record_fault(
        "Security",
        "weights that mean harm",
        made="pickles that ask for a program, never end or fill the memory, alone and in torch's "
        "files, old and new; archives that inflate or climb; headers of safetensors that lie",
        promised="nothing runs; an error that names the file",
        tried=f"{len(found)} files",
        happened=f"{len(found)} refused, nothing ran; the memory grew by {grown:.0f} MiB",
    )


def test_predictions_that_mean_harm_are_refused(tmp_path: Path, record_fault: Record) -> None:
    bad = ["GLOBAL and REDUCE", "a key of 2**60 items", "a key 100,000 deep"]
    for name in bad:
        path = tmp_path / "predictions.pth"
        path.write_bytes(archive_of(pickles()[name]))
        with pytest.raises(ValueError, match=r"predictions\.pth is no file of predictions"):
            list(load_predictions(tmp_path))
    record_fault(
        "Security",
        "stored predictions that mean harm",
        made="pickles that ask for a program, or never end, in the place of predictions",
        promised="nothing runs; an error that names the file",
        tried=f"{len(bad)} files",
        happened=f"{len(bad)} refused",
    )


MERGED = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 40)
)
HOSTILE_TEXTS = {
    "a program by its tag": "SEED: !!python/object/apply:os.system ['touch it_ran']",
    "another file": "_BASE_: /etc/hostname",
    "aliases merged into each other": MERGED,
    "200,000 brackets": "SEED: " + "[" * 200_000,
    "a megabyte of texts": "CLASSES: [" + "x, " * 400_000 + "x]",
    "a number of 5,000 digits": "SEED: " + "9" * 5000,
    "a date that is none": "SEED: 2001-99-99",
    "a time stamp that is none": "SEED: !!timestamp x",
    "a switch that is none": "SEED: !!bool x",
    "3,000 signs in a text": "SOLVER: {STEPS: '" + "-" * 3000 + "1'}",
    "6,000 brackets in a text": "SOLVER: {STEPS: '" + "[" * 6000 + "'}",
    "aliases in a text": "SOLVER: {STEPS: '[" + MERGED.replace("\n", " ").replace("'", "") + "]'}",
    "a list as a key": "? [a]\n: 1",
}


def test_configurations_that_mean_harm_are_each_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_fault: Record
) -> None:
    monkeypatch.chdir(tmp_path)
    ours = to_yaml(load_config(None))
    for text in HOSTILE_TEXTS.values():
        with pytest.raises(ValueError, match=r"theirs\.pth: .{5}"):
            parse_config(text, source="theirs.pth")
    never_read = ["aliases merged into each other", "200,000 brackets", "a megabyte of texts"]
    for name in never_read:
        with pytest.raises(ValueError, match=r"the configuration in theirs\.pth is no YAML"):
            raise_if_conventions_differ(
                "theirs.pth",
                [],
                file_config=HOSTILE_TEXTS[name],
                config=ours,
                has_bottlenecks=False,
            )
    assert not Path(HIDDEN).exists()
    record_fault(
        "Security",
        "configurations that mean harm",
        made="in a checkpoint or a run's folder: programs by tags, other files, aliases and "
        "brackets without end, numbers and dates that are none",
        promised="nothing runs; an error that names the file",
        tried=f"{len(HOSTILE_TEXTS)} texts",
        happened=f"{len(HOSTILE_TEXTS)} refused",
    )

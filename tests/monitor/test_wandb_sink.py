"""Offline: nothing here needs an account or a network."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import detengine
from detengine.monitor.wandb_sink import RUN_ID, run_id_of

PROGRAM = Path(__file__).with_name("wandb_program.py")


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of wandb_program.py's run; beside it the program's home."""
    above = tmp_path_factory.mktemp("wandb")
    folder, home = above / "my run", above / "home"
    folder.mkdir()
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if "WANDB" not in name} | {
        "WANDB_MODE": "offline",
        "HOME": str(home),
        "PYTHONPATH": str(Path(detengine.__file__).parents[1]),
    }
    subprocess.run(
        [sys.executable, str(PROGRAM), str(folder)], env=environment, cwd=above, check=True
    )
    return folder


@pytest.fixture(scope="module")
def starts(offline: Path) -> list[list[Any]]:
    """Of each start, the records that wandb has written."""
    return [list(records(path)) for path in sorted(offline.glob("wandb/offline-run-*/*.wandb"))]


def records(path: Path) -> Iterator[Any]:
    """A .wandb file is LevelDB's log: after 7 bytes, blocks of 32 KiB with parts of records."""
    from wandb.proto import wandb_internal_pb2

    content, position, record = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        room = 32768 - position % 32768
        if room < 7:
            position += room
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or its last part
            parsed = wandb_internal_pb2.Record()
            parsed.ParseFromString(record)
            yield parsed
            record = b""


def rows(start: list[Any]) -> list[dict[str, Any]]:
    """The history of a start, without wandb's own entries."""
    found = []
    for record in start:
        if record.WhichOneof("record_type") == "history":
            items = {
                item.key or "/".join(item.nested_key): json.loads(
                    item.value_json, parse_constant=str
                )
                for item in record.history.item
            }
            found.append({name: value for name, value in items.items() if name[0] != "_"})
    return found


def record_of(start: list[Any], kind: str) -> Any:
    return next(getattr(each, kind) for each in start if each.WhichOneof("record_type") == kind)


def test_every_write_is_a_row_with_its_iteration(starts: list[list[Any]]) -> None:
    loss, later, scores, pictures, last = rows(starts[0])
    assert loss == {"iteration": 20, "train/loss": 0.5, "train/loss_mask": "NaN"}
    assert later == {"iteration": 40, "train/loss": 0.25}
    assert scores == {"iteration": 40, "val/nuclei_val/bbox/AP": 0.125}
    assert pictures["iteration"] == 40
    assert pictures["pictures/nuclei_val/1/width"] == 30
    assert last == {"iteration": 60, "train/loss": 0.75}


def test_all_metrics_are_drawn_over_the_iteration(starts: list[list[Any]]) -> None:
    for start in starts:
        metrics = [each.metric for each in start if each.WhichOneof("record_type") == "metric"]
        assert ("*", "iteration") in [(each.glob_name, each.step_metric) for each in metrics]


def test_a_resumed_run_is_the_same_run_and_loses_no_row(
    offline: Path, starts: list[list[Any]]
) -> None:
    runs = [record_of(start, "run") for start in starts]
    assert [run.run_id for run in runs] == [(offline / RUN_ID).read_text().strip()] * 2
    assert rows(starts[1]) == [{"iteration": 60, "train/loss": 0.75}]


def test_it_has_the_folders_name_and_the_configuration(starts: list[list[Any]]) -> None:
    run = record_of(starts[0], "run")
    assert (run.display_name, run.project) == ("my run", "detengine")
    config = {update.key: update.value_json for update in run.config.update}
    assert json.loads(config["SOLVER"]) == {"MAX_ITER": 60}


def test_a_run_that_fails_is_marked_as_failed(starts: list[list[Any]]) -> None:
    assert [record_of(start, "exit").exit_code for start in starts] == [0, 1]


def test_everything_is_below_the_output_folder(offline: Path) -> None:
    assert list((offline.parent / "home").rglob("*")) == []
    assert {path.name for path in offline.parent.iterdir()} == {"home", "my run"}


def test_a_run_that_begins_anew_in_the_folder_is_another_one(tmp_path: Path) -> None:
    first = run_id_of(tmp_path, 0)
    assert run_id_of(tmp_path, 20) == first
    assert run_id_of(tmp_path, 0) != first

"""What a run's folder says of how the run was made."""

import json
from pathlib import Path

import pytest
import torch

from detengine.monitor.timer import Stages
from detengine.run_report.record import (
    ENVIRONMENT,
    Recorder,
    begin_session,
    describe_environment,
    load_sessions,
    now,
    sha256_of,
)

CPU = torch.device("cpu")


def record(folder: Path, *, anew: bool = False) -> Recorder:
    return Recorder(folder, begin_session("train", CPU, now()), Stages(), anew=anew)


def test_a_session_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    recorder = record(tmp_path)
    with recorder.timed("evaluation"):
        pass
    recorder.write(state="failed", error="<no & such> file", iteration=7)
    (session,) = load_sessions(tmp_path)
    assert (session.state, session.error, session.iteration) == ("failed", "<no & such> file", 7)
    assert session.environment == describe_environment(CPU)
    assert list(session.seconds) == ["evaluation"]
    assert session.working_folder == str(Path.cwd())


def test_a_resumed_run_adds_a_session_and_a_new_one_begins_anew(tmp_path: Path) -> None:
    record(tmp_path)
    record(tmp_path)
    assert len(load_sessions(tmp_path)) == 2
    record(tmp_path, anew=True)
    assert len(load_sessions(tmp_path)) == 1


def test_phases_that_others_count_are_asked_for_when_it_is_written(tmp_path: Path) -> None:
    seconds = [1.0]
    session = begin_session("train", CPU, now())
    recorder = Recorder(tmp_path, session, Stages(), counted={"checkpoint": lambda: seconds[0]})
    seconds[0] = 3.5
    recorder.write()
    assert load_sessions(tmp_path)[0].seconds == {"checkpoint": 3.5}


def test_a_folder_without_a_record_has_no_sessions(tmp_path: Path) -> None:
    assert load_sessions(tmp_path) == []


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"format": 9, "sessions": []}',
        '{"format": 1, "sessions": [{"kind": "train"}]}',
        '{"format": 1, "sessions": 3}',
    ],
)
def test_a_damaged_record_is_named_in_the_error(tmp_path: Path, content: str) -> None:
    (tmp_path / ENVIRONMENT).write_text(content)
    with pytest.raises(ValueError, match=rf"{ENVIRONMENT} is no record of a run, or it is damaged"):
        load_sessions(tmp_path)


def test_a_time_that_is_none_is_damage_too(tmp_path: Path) -> None:
    record(tmp_path)
    content = json.loads((tmp_path / ENVIRONMENT).read_text())
    content["sessions"][0]["seen"] = "yesterday"
    (tmp_path / ENVIRONMENT).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="damaged"):
        load_sessions(tmp_path)


def test_the_digest_of_weights_is_sha256sums(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"abc")
    assert str(sha256_of(str(tmp_path / "w.pth"))).startswith("ba7816bf8f01cfea414140de5dae2223")
    assert sha256_of("catalog://ImageNetPretrained/MSRA/R-50") is None
    assert sha256_of("") is None

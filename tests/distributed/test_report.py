import json
from pathlib import Path

import pytest

from detengine.distributed.report import (
    PeerFailedError,
    is_said_by_another,
    message_of,
    note_who_says,
    tell_launcher,
    with_rank,
)


@pytest.fixture
def as_rank_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "2")
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)


def test_a_rank_but_the_first_says_its_number(as_rank_2, monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_rank(ValueError(), "bad") == "error on rank 2: bad"
    assert with_rank(PeerFailedError(""), "rank 1 is gone") == "error: rank 1 is gone"
    monkeypatch.setenv("RANK", "0")
    assert with_rank(ValueError(), "bad") == "error: bad"


def test_a_process_of_its_own_says_its_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert with_rank(ValueError(), "bad") == "error: bad"
    assert not is_said_by_another(ValueError("bad"), "bad")


def test_who_says_an_error_stays_with_it(as_rank_2) -> None:
    error = ValueError("bad")
    assert not is_said_by_another(error, "bad")
    note_who_says(error, another=True)
    assert is_said_by_another(error, "bad")


def test_a_peers_failure_is_said_only_where_the_peer_cannot(as_rank_2) -> None:
    assert is_said_by_another(PeerFailedError("rank 1 failed: bad"), "")
    assert not is_said_by_another(PeerFailedError("rank 1 is gone", is_told=True), "")


def test_torchruns_report_repeats_the_first_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    tell_launcher("the cause")
    tell_launcher("what came of it")
    report = json.loads(path.read_text())["message"]
    assert report["message"] == report["extraInfo"]["py_callstack"] == "the cause"
    assert int(report["extraInfo"]["timestamp"]) > 0


def test_a_message_has_its_notes_and_a_very_long_one_its_two_ends() -> None:
    error = ValueError("bad " + "x" * 20_000_000)
    error.add_note("while image 7 was read")
    text = message_of(error)
    assert text.startswith("bad xxx")
    assert " ... 19,990,027 more characters ... xxx" in text
    assert text.endswith("xxx\nwhile image 7 was read")

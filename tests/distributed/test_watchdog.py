"""Nobody waits for ever: ranks that fail, are killed or come to a standstill, and what is said."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()),
    reason="this torch has no gloo to join processes with",
)
PROGRAM = Path(__file__).parent / "watched_program.py"
SECONDS = 15.0


@pytest.fixture
def play(run_ranks: Callable[..., list[str]], tmp_path: Path) -> Callable[..., list[str]]:
    """(scenario, count, codes) -> what each rank printed, in less than ten seconds."""

    def play(scenario: str, codes: list[int]) -> list[str]:
        start = time.monotonic()
        printed = run_ranks(len(codes), PROGRAM, scenario, tmp_path, codes=codes, seconds=SECONDS)
        assert time.monotonic() - start < 10
        return printed

    return play


def test_an_error_of_one_rank_ends_all_and_is_said_once(play, tmp_path: Path) -> None:
    printed = play("raises", [1, 1, 1])
    assert printed == ["", "", "error on rank 2: the fourth batch is bad\n"]
    assert "rank 2 failed: the fourth batch is bad" in (tmp_path / "log.txt").read_text()
    assert "rank 2 failed: the fourth" in (tmp_path / "log_rank1.txt").read_text()
    assert "ERROR: the fourth batch is bad" in (tmp_path / "log_rank2.txt").read_text()


def test_an_error_that_nobody_foresaw_is_shown_with_its_traceback_and_rank(play) -> None:
    first, second = play("unforeseen", [1, 1])
    assert first == ""
    assert second.startswith("Traceback")
    assert second.endswith("KeyError: 'unforeseen'\non rank 1\n")


def test_an_error_of_all_ranks_is_said_by_the_first(play) -> None:
    assert play("alike", [1, 1, 1]) == ["error: all ranks say so\n", "", ""]


@pytest.mark.faults
def test_a_rank_that_was_killed_is_named_by_the_others(
    play, tmp_path: Path, record_fault: Callable[..., None]
) -> None:
    printed = play("killed", [1, 1, -9])
    lines = [line for line in printed[0].splitlines() if not line.startswith(("[W", "frame", "Ex"))]
    gone = "rank 2 is gone without a word: its process was killed (out of memory?), or its machine"
    assert lines[-1] == f"error: {gone} is gone"
    assert gone not in printed[1]
    assert gone in (tmp_path / "log_rank1.txt").read_text()
    record_fault(
        "Ranks",
        "one of three ranks is killed",
        made="SIGKILL of the last, before a gather",
        promised="both others end with 1 within ten seconds, and one of them says who is gone",
        tried="1 kill",
        happened="named once on the console, and in each log",
    )


@pytest.mark.faults
def test_a_standstill_ends_all_ranks_and_one_sentence_says_who_waits_for_whom(
    play, tmp_path: Path, record_fault: Callable[..., None]
) -> None:
    printed = play("stalled", [1, 1, 1])
    assert re.search(
        r"error: no progress for \d+ s: ranks 0 and 1 wait in a collective \(all_gather, in train\)"
        r" for rank 2, which is in data \(in go_astray\)\. .*raise DISTRIBUTED\.TIMEOUT"
        r" \(now 0\.00833333 min",
        printed[0],
    ), printed[0]
    assert printed[1:] == ["", ""]
    for name, last_call in (
        ("log.txt", "all_gather"),
        ("log_rank1.txt", "all_gather"),
        ("log_rank2.txt", "go_astray"),
    ):
        text = (tmp_path / name).read_text()
        assert re.search(rf"where this rank stands.*thread MainThread:.*in {last_call}", text, re.S)
        assert "no progress for" in text
    record_fault(
        "Ranks",
        "one of three ranks hangs in its loader",
        made="it sleeps, where the others wait for it in a gather",
        promised="all end with 1 after DISTRIBUTED.TIMEOUT (here 0.5 s); one sentence says who "
        "waits for whom and where, and each log has the stacks",
        tried="1 standstill",
        happened="all ended and it was said",
    )


def test_a_process_of_its_own_that_hangs_is_ended_too(play, tmp_path: Path) -> None:
    [printed] = play("stalled", [1])
    assert re.match(r"error: no progress for \d+ s: the process is in data \(in go_astray", printed)
    assert "time.sleep(60)" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("scenario", ["slow", "unequal"])
def test_a_run_that_goes_on_is_left_alone(play, scenario: str, tmp_path: Path) -> None:
    first, second = play(scenario, [0, 0])
    assert first.count("done") == 1
    assert second == ""
    assert "ERROR" not in (tmp_path / "log.txt").read_text()

import time

import pytest

from detengine.monitor.timer import Stages, Timer, get_time_str


def test_the_timer_adds_up_what_lies_between_tic_and_toc() -> None:
    timer = Timer()
    assert (timer.average, timer.calls, timer.total_seconds) == (0.0, 0, 0.0)
    for _ in range(2):
        timer.tic()
        time.sleep(0.01)
        last = timer.toc(average=False)
        time.sleep(0.05)
    assert timer.calls == 2
    assert 0.02 <= timer.total_seconds < 0.1
    assert timer.average == timer.total_seconds / 2
    assert 0.01 <= last < timer.total_seconds


def test_toc_returns_the_average_unless_told_otherwise() -> None:
    timer = Timer()
    timer.tic()
    assert timer.toc() == timer.average


def test_a_toc_without_its_tic_is_an_error() -> None:
    timer = Timer()
    timer.tic()
    timer.toc()
    with pytest.raises(RuntimeError, match=r"toc\(\) was called without a tic\(\)"):
        timer.toc()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (90, "0:01:30"), (1.5, "0:00:01.500000"), (86400, "1 day, 0:00:00")],
)
def test_seconds_are_written_as_the_predecessor_did(seconds: float, text: str) -> None:
    assert get_time_str(seconds) == text


def test_stages_are_told_with_their_sum() -> None:
    stages = Stages()
    stages.end("data sets")
    stages.end("model")
    stages.seconds = {"data sets": 0.9, "model": 0.3}
    assert str(stages) == "1.20 s: data sets 0.90, model 0.30"

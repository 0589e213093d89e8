"""Who asks a run to stop, and how all its ranks agree."""

import os
import signal
import threading
import time
from typing import Any

import pytest
import torch.distributed as dist

from detengine.engine.stopping import Status, StopAgreement, stop_on_request

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]


# Requests


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_interrupts_nothing(number: signal.Signals) -> None:
    with stop_on_request() as should_stop:
        assert not should_stop()
        os.kill(os.getpid(), number)
        assert should_stop()


def test_a_second_ctrl_c_interrupts_as_always() -> None:
    with stop_on_request() as should_stop:
        os.kill(os.getpid(), signal.SIGINT)
        while not should_stop():  # another thread may have taken it, and Python comes to it later
            time.sleep(0.001)
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_schedulers_signal_may_come_twice(
    number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "detengine.trainer"), stop_on_request() as should_stop:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert should_stop()
    [line] = caplog.messages
    assert line == f"{number.name}: stopping after this step, to be resumed"


def test_a_terminal_that_is_gone_asks_to_stop_unless_nohup_is_to_keep_it_going() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        for handler, stops in ((signal.SIG_DFL, True), (signal.SIG_IGN, False)):
            signal.signal(signal.SIGHUP, handler)
            with stop_on_request() as should_stop:
                os.kill(os.getpid(), signal.SIGHUP)
                assert should_stop() == stops
            assert signal.getsignal(signal.SIGHUP) == handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_forked_process_goes_on_and_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with stop_on_request() as should_stop:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(int(should_stop()))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert capfd.readouterr() == ("", "")


def test_the_handlers_return_afterwards() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with stop_on_request():
        assert all(map(callable, map(signal.getsignal, SIGNALS)))
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_outside_the_main_thread_it_answers_no() -> None:
    answers = []

    def ask() -> None:
        with stop_on_request() as should_stop:
            answers.append(should_stop())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert answers == [False]


def test_when_the_time_limit_is_over_it_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "detengine.trainer"), stop_on_request(0.005) as should_stop:
        assert not should_stop()
        time.sleep(0.35)
        assert should_stop()
        assert should_stop()
    reason = "the time limit of 0.005 minutes is over"
    assert caplog.messages == [f"{reason}: stopping after this step, to be resumed"]


# The agreement


def test_without_a_wish_nobody_stops() -> None:
    assert not StopAgreement().after_step()


def test_a_single_process_stops_after_the_step_it_was_asked_in() -> None:
    answers = iter([False, True])
    agreement = StopAgreement(lambda: next(answers))
    assert [agreement.after_step(), agreement.after_step()] == [False, True]


def test_a_wish_is_not_forgotten() -> None:
    answers = iter([True, False])
    agreement = StopAgreement(lambda: next(answers))
    assert [agreement.after_step(), agreement.after_step()] == [True, True]


def test_a_problem_beside_the_loop_is_raised_after_the_step() -> None:
    problem = OSError("the disk is full")
    with pytest.raises(OSError, match="the disk is full") as raised:
        StopAgreement(None, lambda: problem).after_step()
    assert raised.value is problem


def test_the_wish_of_one_rank_is_that_of_all() -> None:
    assert StopAgreement().settle([Status(False, "", 0.1), Status(True, "", 0.1)])


def test_the_problem_of_one_rank_is_that_of_all() -> None:
    statuses = [Status(False, "", 0.1), Status(False, "the disk is full", 0.1)]
    with pytest.raises(RuntimeError, match="rank 1 cannot go on: the disk is full"):
        StopAgreement().settle(statuses)


@pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()),
    reason="this torch has no gloo to join two processes with",
)
def test_two_ranks_stop_after_the_same_step(two_ranks: list[dict[str, Any]]) -> None:
    first, second = two_ranks
    assert first["stopped_after"] == second["stopped_after"] >= first["asked_after"]
    assert first["exchanges"] == second["exchanges"] < first["stopped_after"]
    assert first["problem"] == "OSError: the disk is full"
    assert second["problem"] == "PeerFailedError: rank 0 cannot go on: the disk is full"
    assert first["batches"] == second["batches"] == [1, 1]

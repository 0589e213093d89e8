import logging

import pytest

from detengine.monitor.data_wait import DataWait
from detengine.monitor.metric_logger import MetricLogger


def meters_of(step_seconds: float, waited_seconds: float) -> MetricLogger:
    meters = MetricLogger()
    meters.update(time=step_seconds, data=waited_seconds)
    return meters


def test_a_training_that_waits_for_its_data_is_told_so_once_with_the_cure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wait = DataWait()
    for _ in range(4):
        wait.judge(meters_of(0.4, 0.12))
    [message] = [record.getMessage() for record in caplog.records]
    assert "0.1200 of 0.4000 s a step (30 %)" in message
    assert "DATALOADER.NUM_WORKERS" in message
    assert "INPUT.MAX_SIZE_TRAIN" in message


def test_the_start_of_the_loader_is_not_held_against_it(caplog: pytest.LogCaptureFixture) -> None:
    wait = DataWait()
    wait.judge(meters_of(1.0, 0.9))
    wait.judge(meters_of(1.0, 0.1))  # a tenth is not more than a tenth
    assert not caplog.records
    wait.judge(meters_of(1.0, 0.2))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]

import copy
import gc
import json
import math
import pickle
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detengine.monitor.metric_logger import MetricLogger, SmoothedValue

RECORDING = Path(__file__).parents[3] / "shared/golden/small/metric_logger.json"


@pytest.fixture
def recorded() -> dict[str, Any]:
    if not RECORDING.exists():
        pytest.skip("the recordings of the predecessor are not here")
    return json.loads(RECORDING.read_text())


def numbers_of(meter: SmoothedValue) -> list[float]:
    return [meter.median, meter.avg, meter.global_avg, meter.count, meter.total]


def test_a_meters_numbers_are_the_predecessors(recorded: dict[str, Any]) -> None:
    meter = SmoothedValue(recorded["window"])
    expected = recorded["smoothed_median_avg_globalavg_count_total"]
    for value, numbers in zip(recorded["series"], expected, strict=True):
        meter.update(value)
        assert meter.median == numbers[0]
        # Its avg was computed in single precision, ours in double.
        assert numbers_of(meter) == pytest.approx(numbers, rel=1e-6)
        assert meter.value == value


def test_the_lines_are_the_predecessors(recorded: dict[str, Any]) -> None:
    meters = MetricLogger(delimiter=recorded["delimiter"])
    lines = recorded["str_after_each_update"]
    for step, (value, line) in enumerate(zip(recorded["series"], lines, strict=False)):
        meters.update(loss=torch.tensor(value), loss_b=value / 3, time=float(step), data=step)
        assert str(meters) == line


def test_a_line_names_each_meter_with_its_median_and_global_average() -> None:
    meters = MetricLogger()
    meters.update(loss=1.65239, time=0.0)
    meters.update(loss=2.12444, time=1)
    assert str(meters) == "loss: 1.6524 (1.8884)\ttime: 0.0000 (0.5000)"
    assert MetricLogger(delimiter="  ").delimiter == "  "
    assert str(MetricLogger()) == ""


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50), st.integers(1, 20))
def test_the_median_is_torchs_over_the_window(values: list[float], window_size: int) -> None:
    meter = SmoothedValue(window_size)
    for value in values:
        meter.update(value)
    window = torch.tensor(values[-window_size:])
    assert meter.median == window.median().item()
    assert meter.avg == pytest.approx(window.double().mean().item(), abs=1e-6)
    assert meter.global_avg == pytest.approx(sum(values) / len(values), abs=1e-6)


def test_an_empty_meter_is_nan() -> None:
    meter = SmoothedValue()
    assert (meter.count, meter.total) == (0, 0.0)
    numbers = (meter.median, meter.avg, meter.global_avg, meter.value)
    assert all(math.isnan(number) for number in numbers)


def test_a_nan_is_kept_and_shown() -> None:
    meters = MetricLogger()
    for value in (1.0, math.nan, 3.0):
        meters.update(loss=torch.tensor(value))
    assert str(meters) == "loss: nan (nan)"
    assert meters.loss.count == 3


def test_meters_are_read_by_attribute_and_by_name() -> None:
    meters = MetricLogger()
    meters.update(loss=2.0, update=3.0, meters=4.0, self=5.0)
    assert meters.loss is meters["loss"]
    assert [meters[name].value for name in ("update", "meters", "self")] == [3.0, 4.0, 5.0]
    assert list(meters.meters) == ["loss", "update", "meters", "self"]


def test_an_unknown_meter_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'MetricLogger' object has no attribute 'not_there'"):
        _ = MetricLogger().not_there


def test_meters_can_be_copied_and_pickled() -> None:
    meters = MetricLogger(delimiter=" ")
    meters.update(loss=torch.tensor(2.0))
    assert str(copy.deepcopy(meters)) == str(pickle.loads(pickle.dumps(meters))) == str(meters)


def test_updates_read_nothing_until_a_meter_is_read(host_reads) -> None:
    meters = MetricLogger()
    weight = torch.ones((), requires_grad=True)
    with host_reads:
        for step in range(63):
            meters.update(loss=weight * step, loss_mask=torch.tensor([0.5]), time=0.1)
        assert not host_reads.counts
        assert meters.loss.count == 63
        assert host_reads.counts["tolist"] == 1
        assert str(meters)
        assert host_reads.counts["tolist"] == 1


def test_the_65th_update_fetches_all_before_it_at_once(host_reads) -> None:
    meters = MetricLogger()
    with host_reads:
        for step in range(64):
            meters.update(loss=torch.tensor(float(step)))
        assert not host_reads.counts
        for step in range(64, 128):
            meters.update(loss=torch.tensor(float(step)))
        assert host_reads.counts["tolist"] == 1
    assert meters.loss.total == sum(range(128))


def test_one_transfer_serves_each_dtype(host_reads) -> None:
    meters = MetricLogger()
    with host_reads:
        meters.update(loss=torch.tensor(0.5), boxes=torch.tensor(7), half=torch.tensor(2.0).half())
        meters.update(loss=torch.tensor(1.5), boxes=torch.tensor(2**40), found=torch.tensor(True))
        assert str(meters)
    assert host_reads.counts["tolist"] == 4
    assert [meter.value for meter in meters.meters.values()] == [1.5, 2.0**40, 2.0, 1.0]


def test_a_value_stays_what_it_was_when_its_tensor_is_reused() -> None:
    meters = MetricLogger()
    loss = torch.tensor(1.0)
    meters.update(loss=loss)
    loss.fill_(9.0)
    assert meters.loss.value == 1.0


def test_a_waiting_value_keeps_no_graph() -> None:
    meters = MetricLogger()
    images = torch.ones(1000, requires_grad=True)
    still_there = weakref.ref(images)
    meters.update(loss=images.square().sum())
    del images
    gc.collect()
    assert still_there() is None
    assert meters.loss.value == 1000.0


def test_a_tensor_of_several_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"meter 'loss' got a tensor of shape \(2, 3\).*mean\(\)"):
        MetricLogger().update(loss=torch.zeros(2, 3))


def test_what_is_no_number_is_refused_and_nothing_of_the_update_is_kept() -> None:
    meters = MetricLogger()
    with pytest.raises(TypeError, match="meter 'name' got 'R-50' of type str"):
        meters.update(loss=1.0, name="R-50")  # type: ignore[arg-type]
    assert str(meters) == ""


def test_resumed_meters_go_on_as_if_they_had_never_stopped() -> None:
    unbroken, before, after = MetricLogger(), MetricLogger(), MetricLogger()
    for step in range(30):
        unbroken.update(loss=torch.tensor(step * 0.1), time=step)
        before.update(loss=torch.tensor(step * 0.1), time=step)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    for step in range(5):
        unbroken.update(loss=step)
        after.update(loss=step)
    assert after.state_dict() == unbroken.state_dict()
    assert str(after) == str(unbroken)


def test_one_process_has_nothing_to_reduce() -> None:
    meters = MetricLogger()
    meters.update(loss=3.0)
    assert meters.reduce_across_ranks("rider") == ["rider"]
    assert (meters.loss.count, meters.loss.total) == (1, 3.0)


def test_reduced_meters_are_equal_on_all_ranks(two_ranks) -> None:
    assert two_ranks[0]["lines"] == two_ranks[1]["lines"]
    assert two_ranks[0]["state"] == two_ranks[1]["state"]


def test_what_rides_along_reaches_all_ranks(two_ranks) -> None:
    assert [seen["riders"] for seen in two_ranks] == 2 * [["of rank 0", "of rank 1"]]


def test_two_ranks_are_one_that_saw_their_means(two_ranks) -> None:
    one = MetricLogger(delimiter="  ")
    for step in range(25):
        one.update(loss=step + 1.0, time=step * 1.5)
    assert two_ranks[0]["lines"][:2] == [str(one), str(one)]


def test_what_one_rank_alone_saw_is_not_lost(two_ranks) -> None:
    seen = two_ranks[0]
    # Paired from the newest on: (-, 0), (0, 100), (100, 200), (200, 300).
    assert seen["window"][-4:] == [0.0, 50.0, 150.0, 250.0]
    assert seen["window"][:-4] == [float(step + 1) for step in range(9, 25)]
    assert seen["counts"] == {"loss": 29, "time": 25, "loss_mask": 1}
    assert seen["lines"][2].endswith("loss_mask: 7.0000 (7.0000)")


def test_several_values_at_once_are_as_many_updates() -> None:
    values = [0.1 * step for step in range(33)]
    at_once, one_by_one = SmoothedValue(), SmoothedValue()
    at_once.extend(values)
    for value in values:
        one_by_one.update(value)
    assert at_once.state_dict() == one_by_one.state_dict()

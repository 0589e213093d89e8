import json
import math
import struct
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator

from detengine.monitor.sinks import JsonlSink
from detengine.monitor.tensorboard_sink import FOLDER, TensorBoardSink


def in_single_precision(value: float) -> float:
    """As an event file holds it."""
    number: float = struct.unpack("f", struct.pack("f", value))[0]
    return number


def read(folder: Path) -> EventAccumulator:
    """What TensorBoard itself makes of the files."""
    events = EventAccumulator(str(folder / FOLDER), size_guidance={IMAGES: 0})
    return events.Reload()


def scalars(events: EventAccumulator, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_every_number_of_metrics_jsonl_is_there_at_its_iteration(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with closing(JsonlSink(path)) as one, closing(TensorBoardSink(tmp_path, 0)) as other:
        for sink in (one, other):
            for iteration in (20, 40, 60):
                sink.write(iteration, {"train/loss": 1 / iteration, "train/lr": 0.1})
            sink.write(60, {"val/nuclei_val/bbox/AP50": 0.25})
    events = read(tmp_path)
    expected: dict[str, list[tuple[int, float]]] = {}
    for line in path.read_text().splitlines():
        metrics = json.loads(line)
        iteration = metrics.pop("iteration")
        for name, value in metrics.items():
            expected.setdefault(name, []).append((iteration, in_single_precision(value)))
    assert {name: scalars(events, name) for name in events.Tags()["scalars"]} == expected


def test_what_is_written_is_there_at_once(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path, 0)
    sink.write(20, {"train/loss": 0.5})
    assert scalars(read(tmp_path), "train/loss") == [(20, 0.5)]
    sink.close()


def test_a_resumed_run_takes_back_what_it_repeats(tmp_path: Path) -> None:
    for first, iterations in ((0, (20, 40, 60)), (30, (40, 60, 80))):
        with closing(TensorBoardSink(tmp_path, first)) as sink:
            for iteration in iterations:
                sink.write(iteration, {"train/loss": float(first)})
    assert scalars(read(tmp_path), "train/loss") == [(20, 0), (40, 30), (60, 30), (80, 30)]


def test_a_run_that_begins_anew_takes_all_back(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        with closing(TensorBoardSink(tmp_path, 0)) as sink:
            sink.write(20, {"train/loss": value})
    assert scalars(read(tmp_path), "train/loss") == [(20, 2.0)]


def test_the_torn_record_of_a_killed_run_costs_nothing_else(tmp_path: Path) -> None:
    with closing(TensorBoardSink(tmp_path, 0)) as sink:
        for iteration in (20, 40):
            sink.write(iteration, {"train/loss": 0.5})
    (file,) = (tmp_path / FOLDER).iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    with closing(TensorBoardSink(tmp_path, 20)) as sink:
        sink.write(40, {"train/loss": 0.25})
    assert scalars(read(tmp_path), "train/loss") == [(20, 0.5), (40, 0.25)]


def test_numbers_that_are_not_finite_stay_what_they_are(tmp_path: Path) -> None:
    with closing(TensorBoardSink(tmp_path, 0)) as sink:
        sink.write(20, {"a": math.nan, "b": -math.inf})
    events = read(tmp_path)
    assert math.isnan(events.Scalars("a")[0].value)
    assert events.Scalars("b")[0].value == -math.inf


def test_pictures_are_there_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "1.png"
    with closing(TensorBoardSink(tmp_path, 0)) as sink:
        for iteration, colour in ((20, "red"), (40, "blue")):
            Image.new("RGB", (30, 20), colour).save(path)
            sink.write_pictures(iteration, {"nuclei_val/1": path})
    first, second = read(tmp_path).Images("pictures/nuclei_val/1")
    assert (first.step, first.width, first.height) == (20, 30, 20)
    assert (second.step, second.encoded_image_string) == (40, path.read_bytes())
    assert first.encoded_image_string != second.encoded_image_string


def test_a_write_that_fails_is_an_error_where_it_happens(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path, 0)
    sink.close()
    with pytest.raises(ValueError, match="closed file"):
        sink.write(20, {"train/loss": 0.5})

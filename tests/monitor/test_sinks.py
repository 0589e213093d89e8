import json
import logging
import math
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from detengine.monitor.sinks import (
    JsonlSink,
    OptionalSink,
    evaluations_in,
    last_iteration_with,
)


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_write_is_one_line_that_is_on_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path)
    sink.write(20, {"train/loss": 0.5, "train/lr": 0.02})
    assert lines_of(path) == [{"iteration": 20, "train/loss": 0.5, "train/lr": 0.02}]
    sink.write(40, {"val/nuclei_val/bbox/AP50": 1})
    assert lines_of(path)[1] == {"iteration": 40, "val/nuclei_val/bbox/AP50": 1.0}
    sink.close()


def test_numbers_come_back_to_the_last_bit(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    sink.write(1, {"a": 0.1 + 0.2, "b": 5e-324})
    sink.close()
    assert lines_of(tmp_path / "metrics.jsonl") == [{"iteration": 1, "a": 0.1 + 0.2, "b": 5e-324}]


def test_numbers_that_json_has_not_are_strings_that_float_reads(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    sink.write(1, {"nan": math.nan, "inf": math.inf, "minus": -math.inf})
    sink.close()
    (line,) = lines_of(tmp_path / "metrics.jsonl")
    assert line == {"iteration": 1, "nan": "nan", "inf": "inf", "minus": "-inf"}
    assert math.isnan(float(str(line["nan"])))
    assert float(str(line["minus"])) == -math.inf


def test_a_resumed_run_continues_the_file(tmp_path: Path) -> None:
    for iteration in (20, 40):
        sink = JsonlSink(str(tmp_path / "metrics.jsonl"))
        sink.write(iteration, {"train/loss": 1.0})
        sink.close()
    assert [line["iteration"] for line in lines_of(tmp_path / "metrics.jsonl")] == [20, 40]


def test_the_torn_line_of_a_killed_run_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 20}\n{"iteration": 40, "tra')
    sink = JsonlSink(path)
    sink.write(40, {"train/loss": 1.0})
    sink.close()
    assert lines_of(path) == [{"iteration": 20}, {"iteration": 40, "train/loss": 1.0}]


def test_a_resumed_run_drops_the_lines_that_it_repeats(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with closing(JsonlSink(path)) as sink:
        for iteration in (5, 10, 15):
            sink.write(iteration, {"train/loss": 0.5})
        sink.write(10, {"val/mine/bbox/AP": 0.5})
    with closing(JsonlSink(path, finished_iterations=10)) as sink:
        sink.write(15, {"train/loss": 0.25})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["iteration"], *list(line)[1:]) for line in lines] == [
        (5, "train/loss"),
        (10, "train/loss"),
        (10, "val/mine/bbox/AP"),
        (15, "train/loss"),
    ]
    assert lines[-1]["train/loss"] == 0.25


def test_a_line_that_is_not_the_sinks_stays(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('my own note\n{"iteration": 20}\n[1]\n')
    JsonlSink(path, finished_iterations=10).close()
    assert path.read_text() == "my own note\n[1]\n"


def test_the_last_iteration_with_a_kind_of_metric_is_found(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert last_iteration_with("val/", path, until=20) is None
    lines = [
        {"iteration": 5, "val/a": 0.5},
        {"iteration": 9, "b": 1},
        {"iteration": 10, "val/a": 1},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert last_iteration_with("val/", path, until=20) == 10
    assert last_iteration_with("val/", path, until=9) == 5
    assert last_iteration_with("test/", path, until=20) is None


def test_the_evaluations_of_a_file_come_with_their_iterations(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert list(evaluations_in(path)) == []
    with closing(JsonlSink(path)) as sink:
        sink.write(20, {"train/loss": 0.5})
        sink.write(20, {"val/a/bbox/AP": 0.25, "val/a/loss/loss": math.inf})
    assert list(evaluations_in(path)) == [
        (20, {"val/a/bbox/AP": 0.25, "val/a/loss/loss": math.inf})
    ]


class Recorder:
    """Notes what it is given. full_at: the iteration from which on its disk is full."""

    def __init__(self, full_at: float = math.inf, *, fails_to_close: bool = False) -> None:
        self.seen: list[tuple[int, str]] = []
        self.closed = 0
        self.full_at = full_at
        self.fails_to_close = fails_to_close

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        if iteration >= self.full_at:
            raise OSError("no space left on device")
        self.seen += [(iteration, name) for name in metrics]

    def write_pictures(self, iteration: int, pictures: Mapping[str, Path]) -> None:
        self.write(iteration, dict.fromkeys(pictures, 0.0))

    def close(self) -> None:
        self.closed += 1
        if self.fails_to_close:
            raise RuntimeError("the network is gone")


def test_an_optional_sink_gets_everything_and_says_nothing(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    recorder = Recorder()
    with closing(OptionalSink("tensorboard", recorder)) as sink:
        sink.write(20, {"train/loss": 0.5})
        sink.write_pictures(20, {"a/1": tmp_path / "1.png"})
    assert recorder.seen == [(20, "train/loss"), (20, "a/1")]
    assert recorder.closed == 1
    assert caplog.records == []


def test_an_optional_sink_that_fails_is_warned_of_once_and_again_at_the_end(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    recorder = Recorder(full_at=40)
    with closing(OptionalSink("tensorboard", recorder)) as sink:
        for iteration in (20, 40, 60):
            sink.write(iteration, {"train/loss": 0.5})
            sink.write_pictures(iteration, {"a/1": tmp_path / "1.png"})
    assert [iteration for iteration, _ in recorder.seen] == [20, 20]
    assert recorder.closed == 1
    first, last = [record.getMessage() for record in caplog.records]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert "tensorboard failed and is switched off" in first
    assert "OSError: no space left on device" in first
    assert "tensorboard has nothing of this run from iteration 40 on" in last


def test_an_optional_sink_that_cannot_be_closed_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    OptionalSink("wandb", Recorder(fails_to_close=True)).close()
    (warning,) = caplog.records
    assert "RuntimeError: the network is gone" in warning.getMessage()


def test_what_stops_the_program_is_not_taken_for_a_sinks_failure() -> None:
    class Interrupted(Recorder):
        def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        OptionalSink("wandb", Interrupted()).write(20, {})


FOREIGN = [
    b'{"iteration": "of another program"}\n',
    b"\xff\xfe\n",
    b"[1, 2]\n",
    b"\n",
    b'{"a": 1}\n',
]


def test_what_somebody_else_wrote_is_left_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"iteration": 5}\n' + b"".join(FOREIGN) + b'{"iteration": 20}\n')
    JsonlSink(path, finished_iterations=10).close()
    assert path.read_bytes() == b'{"iteration": 5}\n' + b"".join(FOREIGN)
    assert last_iteration_with("val/", path, until=10) is None
    assert list(evaluations_in(path)) == []


@pytest.mark.parametrize("length", [0, 10, 2**16 - 1, 2**16, 3 * 2**16])
@pytest.mark.parametrize("whole", [b"", b"{}\n" * 7])
def test_a_torn_line_of_any_length_is_dropped(tmp_path: Path, length: int, whole: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(whole + b"x" * length)
    JsonlSink(path).close()
    assert path.read_bytes() == whole

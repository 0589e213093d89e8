import json
import math
from contextlib import closing
from pathlib import Path

from detengine.monitor.sinks import JsonlSink, last_iteration_with


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

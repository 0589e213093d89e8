import json
import math
from pathlib import Path

from detengine.monitor.sinks import JsonlSink


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

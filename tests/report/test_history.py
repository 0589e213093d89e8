"""A run's numbers, read from metrics.jsonl and made fit to be drawn."""

import json
from pathlib import Path

import numpy as np
import pytest

from detengine.monitor.sinks import JsonlSink
from detengine.report.history import Score, Series, envelope, read_history, smoothed, thinned


def series(values: list[float]) -> Series:
    return Series(np.arange(len(values), dtype=float), np.array(values))


def test_what_a_sink_wrote_is_read_back(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    for iteration in (20, 40):
        sink.write(iteration, {"train/loss_mask": 1 / iteration, "train/loss": iteration})
    sink.write(40, {"val/a/b/bbox/AP": 0.5, "val/a/b/loss/loss": float("nan")})
    sink.close()
    history = read_history(tmp_path / "metrics.jsonl")
    assert list(history.losses()) == ["loss", "loss_mask"]
    assert history.losses()["loss_mask"].values.tolist() == [1 / 20, 1 / 40]
    assert (history.iteration, history.unread) == (40, 0)
    # a data set's name may have slashes; a number that is none stays one
    assert set(history.scores()) == {Score("a/b", "bbox", "AP"), Score("a/b", "loss", "loss")}
    assert np.isnan(history.scores()[Score("a/b", "loss", "loss")].values[-1])


def test_a_torn_last_line_and_strange_ones_are_counted_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"iteration": 20, "train/loss": 1.5}), "[1, 2]", '{"note": "mine"}', ""]
    path.write_bytes("\n".join(lines).encode() + b'{"iteration": 40, "train/lo\xff')
    history = read_history(path)
    assert history.losses()["loss"].values.tolist() == [1.5]
    assert history.unread == 3


def test_without_a_file_there_is_no_history(tmp_path: Path) -> None:
    history = read_history(tmp_path / "metrics.jsonl")
    assert (dict(history.series), history.iteration, history.unread) == ({}, 0, 0)


def test_smoothing_keeps_a_straight_line_to_its_ends() -> None:
    line = np.linspace(3.0, -1.0, 50)
    assert smoothed(line, 7) == pytest.approx(line)


def test_smoothing_passes_over_what_is_not_finite() -> None:
    values = np.array([1.0, np.nan, 1.0, np.inf, 1.0])
    assert smoothed(values, 3).tolist()[1:4] == [1.0, 1.0, 1.0]
    assert np.isnan(smoothed(np.array([np.nan, np.nan]), 2)).all()


def test_a_long_series_keeps_its_peaks_in_few_points() -> None:
    values = np.sin(np.arange(10_000) / 500)
    values[1234], values[7777] = 9.0, -9.0
    drawn = envelope(Series(np.arange(10_000.0), values), 400)
    assert len(drawn.values) <= 400
    assert (drawn.values.max(), drawn.values.min()) == (9.0, -9.0)
    assert (np.diff(drawn.iterations) > 0).all()


def test_a_thinned_series_ends_where_it_ended() -> None:
    drawn = thinned(series([float(n) for n in range(1000)]), 100)
    assert len(drawn.values) == 100
    assert (drawn.values[0], drawn.values[-1]) == (0.0, 999.0)
    short = series([1.0, 2.0])
    assert thinned(short, 100) is short

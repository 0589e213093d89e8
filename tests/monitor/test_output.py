"""What becomes of printed lines when nobody takes them any more."""

import io
import os
import sys

import pytest

from detengine.monitor.output import Output


def test_lines_arrive_while_somebody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    output = Output()
    with os.fdopen(writing, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert output.write("one line\n") == 9
        output.flush()
        assert output.fileno() == writing
        assert not output.isatty()
    with os.fdopen(reading) as lines:
        assert lines.read() == "one line\n"


def test_without_a_reader_it_is_said_once_and_nothing_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    output = Output()
    with os.fdopen(writing, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        for _ in range(3):
            output.write("unread\n")
            output.flush()
    told = capsys.readouterr().err
    assert told.count("warning: the output cannot be written to any more (Broken pipe)") == 1
    assert told.count("\n") == 1


def test_where_there_is_no_output_at_all_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    output = Output()
    assert output.write("unread\n") == 7
    output.flush()
    assert not output.isatty()


def test_what_rich_puts_before_the_output_is_looked_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Proxy(io.StringIO):
        rich_proxied_file = io.StringIO()

    monkeypatch.setattr(sys, "stdout", Proxy())
    output = Output()
    output.write("a line\n")
    assert Proxy.rich_proxied_file.getvalue() == "a line\n"
    assert not hasattr(output, "rich_proxied_file")

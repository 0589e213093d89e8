import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from detengine.monitor import logs
from detengine.monitor.bar import Bar
from detengine.monitor.logs import close_logging, console, setup_logging
from fault_record import Record


@pytest.fixture(autouse=True)
def _closed_afterwards() -> Iterator[None]:
    yield
    close_logging()


LINE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} detengine\.trainer INFO: "


def test_a_line_goes_to_the_console_and_to_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logging(tmp_path)
    logging.getLogger("detengine.trainer").info("loss %.4f", 0.5)
    on_console = capsys.readouterr().out
    assert re.fullmatch(LINE + r"loss 0\.5000\n", on_console)
    assert (tmp_path / "log.txt").read_text() == on_console


def test_long_lines_and_markup_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging(None)
    message = "[bold]loss[/] :smile: 'text' " + "  ".join(["0.1234 (0.5678)"] * 30) + "\nbox [1, 2]"
    logging.getLogger("detengine.trainer").info(message)
    assert capsys.readouterr().out.endswith(message + "\n")


@pytest.mark.faults
def test_a_name_in_a_line_commands_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], record_fault: Record
) -> None:
    """What clears a screen, sets its title, rings, goes back, turns the writing round, or is a
    newline to some programs and not to others."""
    names = [
        "\x1b[2J",
        "\x1b]0;title\x07",
        "\x9b31m",
        "\r\b\b",
        "\x00",
        "\u202egnp.exe",
        "\x85\u2028",
    ]
    setup_logging(tmp_path)
    for name in names:
        logging.getLogger("detengine.trainer").warning("class %s\nof a file", name)
        with console().capture() as bar:
            console().print(Bar(f"{name}.mp4", None).render())
        assert bar.get().strip("\n").isprintable()
    close_logging()
    shown, kept = capsys.readouterr().out, (tmp_path / "log.txt").read_text()
    assert shown == kept
    assert all(each.isprintable() or each in "\n\t" for each in kept)
    assert kept.count("\nof a file\n") == len(names)
    assert "class \\x1b[2J" in kept
    record_fault(
        "Security",
        "names that command a terminal",
        made="escape sequences, carriage returns, marks that turn the writing round, in log lines "
        "and bars",
        promised="they are shown as escapes, on the terminal and in log.txt",
        tried=f"{len(names)} names",
        happened="no control character was left",
    )


def test_lines_below_info_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging(None)
    logging.getLogger("detengine.trainer").debug("noise")
    assert capsys.readouterr().out == ""


def test_a_second_call_does_not_double_the_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "second", "second"):
        (tmp_path / name).mkdir(exist_ok=True)
        setup_logging(str(tmp_path / name))
    logging.getLogger("detengine.run").warning("once")
    assert capsys.readouterr().out.count("once") == 1
    assert (tmp_path / "first/log.txt").read_text() == ""
    assert (tmp_path / "second/log.txt").read_text().count("once") == 1


def test_a_resumed_run_continues_the_file(tmp_path: Path) -> None:
    for message in ("before", "after"):
        setup_logging(tmp_path)
        logging.getLogger("detengine.run").info(message)
    assert re.fullmatch(r"(.*before)\n(.*after)\n", (tmp_path / "log.txt").read_text())


def test_closing_leaves_the_handlers_of_others(tmp_path: Path) -> None:
    logger = logging.getLogger("detengine")
    foreign = logging.NullHandler()
    logger.addHandler(foreign)
    try:
        setup_logging(tmp_path)
        close_logging()
        assert logger.handlers == [foreign]
        assert logger.propagate
    finally:
        logger.removeHandler(foreign)


def test_the_console_is_one() -> None:
    assert console() is console()


def test_ranks_but_the_first_show_errors_only_and_say_who_they_are(two_ranks) -> None:
    first, second = (seen["console"] for seen in two_ranks)
    assert re.fullmatch(LINE + r"from rank 0\n.* detengine\.trainer WARNING: beware\n", first)
    assert re.fullmatch(r".* detengine\.trainer ERROR \[rank 1\]: broken\n", second)


def test_each_rank_has_a_file_and_all_but_the_first_keep_warnings_and_errors_only(
    two_ranks,
) -> None:
    files = two_ranks[0]["log_files"]
    assert re.findall(r"trainer (\w+): (.*)", files["log.txt"]) == [
        ("INFO", "from rank 0"),
        ("WARNING", "beware"),
        ("ERROR", "elsewhere"),
    ]
    assert re.findall(r"trainer (\w+): (.*)", files["log_rank1.txt"]) == [
        ("WARNING", "beware"),
        ("ERROR", "elsewhere"),
        ("ERROR", "broken"),
    ]


def test_a_rank_that_has_nothing_to_say_makes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "is_main_process", lambda: False)
    setup_logging(tmp_path)
    logging.getLogger("detengine.trainer").info("as all ranks")
    assert list(tmp_path.iterdir()) == []

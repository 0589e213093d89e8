"""Reports from the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from report_runs import make_config, write_run

Command = Callable[..., Any]


@pytest.fixture
def run(tiny_config: Path, tmp_path: Path) -> Path:
    return write_run(make_config(tiny_config, tmp_path / "run"), scored=False)


def test_report_prints_the_path_of_the_page_and_nothing_else(detengine: Command, run: Path) -> None:
    finished = detengine("report", run)
    assert (finished.code, finished.err) == (0, "")
    assert finished.out == f"{run / 'report.html'}\n"
    assert (run / "report.html").is_file()


def test_several_runs_are_compared_in_the_working_folder_or_where_it_is_said(
    detengine: Command,
    run: Path,
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = write_run(make_config(tiny_config, tmp_path / "other"), scored=False)
    monkeypatch.chdir(tmp_path)
    assert detengine("report", run, other).out == "report.html\n"
    assert not (run / "report.html").exists()  # its own page is another one
    finished = detengine("report", run, other, "--output", tmp_path / "both.html")
    assert finished.out == f"{tmp_path / 'both.html'}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["gone"], 1, "there is no folder gone. Give the output folder of a training"),
        (["{folder}"], 1, "holds no run: config.yaml is missing"),
        (["{run}", "{run}"], 1, "a run is compared with itself"),
        (["{run}", "--output", "{folder}"], 1, "is a folder; --output is the file to write"),
        (["{run}", "--output", "{run}/config.yaml"], 1, "is no report of this program"),
        (["{run}", "--samples", "0"], 2, "Invalid value for '--samples'"),
        ([], 2, "Missing argument 'RUN...'"),
    ],
)
def test_what_cannot_be_reported_is_said_with_the_cure(
    detengine: Command, run: Path, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    given = [each.format(run=run, folder=tmp_path) for each in arguments]
    finished = detengine("report", *given)
    assert finished.code == code
    assert said in " ".join(finished.err.replace("│", " ").split())
    assert not (run / "report.html").exists()

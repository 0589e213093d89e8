"""A terminal, or whoever reads what is printed, goes away in the midst of a run."""

import json
from pathlib import Path
from signal import SIGHUP
from typing import Any

import pytest

from resume.conftest import Run, differences, new_run, unbroken  # noqa: F401 (fixtures)

pytestmark = pytest.mark.faults

PROGRAM = Path(__file__).parent / "faulty_program.py"
SETTINGS = {"MODEL.BUILDER": "tiny_detectors:without_randomness", "SOLVER.MAX_ITER": 12}
STOPPED = 75


def start(run: Run, do: str, *, hang_up: bool) -> int:
    """The exit code of the run with such a fault at its start."""
    process = run.server.start(
        program=str(PROGRAM),
        arguments=run.arguments(resume=False, scored=False, settings={}),
        output=str(run.output_path),
        environment={"FAULT": json.dumps({"at": "start", "do": do})},
        signal_at={"pattern": "iter: 7 ", "signal": int(SIGHUP), "group": False}
        if hang_up
        else None,
    )
    return process.wait()


def test_a_run_goes_on_without_its_reader_and_stops_resumably_without_its_terminal(
    new_run: Any,  # noqa: F811
    unbroken: Any,  # noqa: F811
    differences: Any,  # noqa: F811
    times: Any,
    record_fault: Any,
) -> None:
    faults = [
        ("leaves the pipe", 0),
        ("closes the terminal", STOPPED),
        ("leaves the pipe", STOPPED),
    ][: times(2, 3)]
    for do, code in faults:
        run = new_run(SETTINGS)
        assert start(run, do, hang_up=code == STOPPED) == code, run.output()
        if do == "leaves the pipe":
            assert run.output().count("the output cannot be written to any more (Broken pipe)") == 1
        if code == STOPPED:
            assert run.last_checkpoint() == "model_0000008.pth"
            assert run.train(resume=True) == 0, run.output()
        assert differences(run, unbroken(SETTINGS)) == []
    record_fault(
        "Crashes",
        "nobody reads what a run prints, or its terminal is gone",
        made="a pipe without a reader, a closed terminal; with SIGHUP",
        promised="without a reader the run goes on and says so once on stderr; after SIGHUP it "
        "saves and ends with 75; resumed or not, it ends with the same bits",
        tried=f"{len(faults)} runs",
        happened="all ended the same",
    )

"""One run's folder, one process that trains in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detengine.output_folder import held

HOLD = """
import sys
from pathlib import Path
from detengine.output_folder import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> "subprocess.Popen[str]":
    """Another process that holds the folder."""
    source = str(Path(__file__).parents[1] / "src")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": source},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_that_is_trained_in_is_refused_and_its_holder_named(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    expected = rf"trained in by another process \(process {holder.pid} on .*OUTPUT_DIR"
    with holder, pytest.raises(BlockingIOError, match=expected), held(tmp_path):
        pass
    with held(tmp_path):
        assert (tmp_path / "run.lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_holder_holds_no_more(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    with holder:
        holder.kill()
    with held(tmp_path):
        pass

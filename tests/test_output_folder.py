"""One run's folder, one process that trains in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detengine.output_folder import free_folder, held, last_folder

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


def test_a_further_run_finds_a_folder_of_its_own_and_goes_on_in_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert free_folder("run") == last_folder("run") == Path("run")
    Path("run").mkdir()
    assert (last_folder("run"), free_folder("run")) == (Path("run"), Path("run-2"))
    Path("run-2").mkdir()
    assert (last_folder("run"), free_folder("run")) == (Path("run-2"), Path("run-3"))

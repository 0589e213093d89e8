import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "killed_program.py"


@pytest.mark.faults
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.endurance
@pytest.mark.parametrize("writing", ["here", "beside"])
def test_killed_at_any_moment_of_a_save_a_run_resumes_with_a_whole_checkpoint(
    tmp_path: Path,
    writing: str,
    times: Callable[[int, int], int],
    record_fault: Callable[..., None],
) -> None:
    kills = times(3, 64)
    settings = {"PYTHONPATH": str(PROGRAM.parents[2] / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, PROGRAM, str(tmp_path), str(kills), writing]
    done = subprocess.run(
        command, env=os.environ | settings, timeout=240, check=True, capture_output=True, text=True
    )
    seen = json.loads(done.stdout)
    assert seen["resumed"] == sorted(seen["resumed"])
    assert len(seen["resumed"]) == kills
    assert seen["halves"] >= kills // 6  # the kills did fall inside the writing
    assert len(list(tmp_path.glob("*.pth"))) <= 4
    where = "in the loop" if writing == "here" else "in the background"
    record_fault(
        "Crashes",
        f"killed while a checkpoint is saved {where}",
        made="`kill -9` at moments that are spread evenly over a save",
        promised="the newest checkpoint that was told to be saved, or a newer one, is whole",
        tried=f"{kills} kills, {seen['halves']} of them with a file half written",
        happened="each time a whole checkpoint, its every weight as saved; no half file left",
    )

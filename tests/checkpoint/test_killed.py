import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "killed_program.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("writing", ["here", "beside"])
def test_killed_at_any_moment_of_a_save_a_run_resumes_with_a_whole_checkpoint(
    tmp_path: Path, writing: str
) -> None:
    kills = 32
    settings = {"PYTHONPATH": str(PROGRAM.parents[2] / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, PROGRAM, str(tmp_path), str(kills), writing]
    done = subprocess.run(
        command, env=os.environ | settings, timeout=240, check=True, capture_output=True, text=True
    )
    seen = json.loads(done.stdout)
    assert seen["resumed"] == sorted(seen["resumed"])
    assert len(seen["resumed"]) == kills
    assert seen["halves"] >= kills // 4  # the kills did fall inside the writing
    assert len(list(tmp_path.glob("*.pth"))) <= 4

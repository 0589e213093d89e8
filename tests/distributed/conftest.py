import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What ranks_program.py saw on each of two gloo processes, started once by torchrun."""
    folder = tmp_path_factory.mktemp("two_ranks")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    source = str(HERE.parents[1] / "src")
    subprocess.run(
        [*launcher, str(HERE / "ranks_program.py"), str(folder)],
        check=True,
        timeout=120,
        env={
            **os.environ,
            "PYTHONPATH": source,
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        },
    )
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]

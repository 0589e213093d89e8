import os
import subprocess
import sys
from pathlib import Path

import pytest

from detengine.checkpoint.files import load_file

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ranks_program.py wrote from two gloo processes, started once by torchrun."""
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
    return folder


def test_rank_0_alone_writes_and_the_wrapper_is_not_in_the_names(folder: Path) -> None:
    data = load_file(folder / "wrapped.pth")
    assert list(data["model"]) == ["weight", "bias"]
    assert (data["rank"], data["world_size"]) == (0, 2)


def test_if_rank_0_cannot_write_all_ranks_raise(folder: Path) -> None:
    texts = [(folder / f"rank{rank}.txt").read_text() for rank in range(2)]
    assert texts[0].startswith("FileNotFoundError: ")
    assert texts[1].startswith("RuntimeError: rank 0 could not save lost: ")
    assert all("there is no folder" in text for text in texts)

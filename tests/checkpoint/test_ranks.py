from collections.abc import Callable
from pathlib import Path

import pytest

from detengine.checkpoint.files import load_file


@pytest.fixture(scope="module")
def folder(run_two_ranks: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ranks_program.py wrote from two processes."""
    folder = tmp_path_factory.mktemp("two_ranks")
    run_two_ranks(Path(__file__).parent / "ranks_program.py", folder)
    return folder


def test_rank_0_alone_writes_and_the_wrapper_is_not_in_the_names(folder: Path) -> None:
    data = load_file(folder / "wrapped.pth")
    assert list(data["model"]) == ["weight", "bias"]
    assert (data["rank"], data["world_size"]) == (0, 2)


def test_if_rank_0_cannot_write_all_ranks_raise(folder: Path) -> None:
    texts = [(folder / f"rank{rank}.txt").read_text() for rank in range(2)]
    assert texts[0].startswith("FileNotFoundError: ")
    assert texts[1].startswith("RuntimeError: rank 0 could not save: cannot write lost.pth: ")
    assert all("there is no folder" in text for text in texts)

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from detengine.checkpoint.files import load_file


@pytest.fixture(scope="module")
def folder(run_ranks: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ranks_program.py wrote from two processes."""
    folder = tmp_path_factory.mktemp("two_ranks")
    run_ranks(2, Path(__file__).parent / "ranks_program.py", folder)
    return folder


def outcomes(folder: Path, what: str) -> list[object]:
    """Of what ranks_program.py tried, by rank."""
    return [json.loads((folder / f"rank{rank}.json").read_text())[what] for rank in range(2)]


def test_rank_0_alone_writes_and_the_wrapper_is_not_in_the_names(folder: Path) -> None:
    data = load_file(folder / "wrapped.pth")
    assert list(data["model"]) == ["weight", "bias"]
    assert (data["rank"], data["world_size"]) == (0, 2)


@pytest.mark.parametrize("method", ["save", "wait"])
def test_if_rank_0_cannot_write_all_ranks_raise(folder: Path, method: str) -> None:
    texts = outcomes(folder, method)
    assert texts[0].startswith("FileNotFoundError: ")
    assert texts[1].startswith("PeerFailedError: rank 0 could not save: ")
    assert all("cannot write lost.pth: " in text for text in texts)
    assert all("there is no folder" in text for text in texts)


def test_in_the_background_no_rank_leaves_the_others_alone(folder: Path) -> None:
    assert outcomes(folder, "save in background") == ["None", "None"]
    assert outcomes(folder, "save again") == ["None", "None"]
    assert outcomes(folder, "wait again") == ["None", "None"]
    of_rank_0, of_rank_1 = outcomes(folder, "problem")
    assert "cannot write lost.pth" in of_rank_0
    assert of_rank_1 == "None"


def test_all_ranks_go_on_from_the_checkpoint_before_a_damaged_one(folder: Path) -> None:
    assert outcomes(folder, "resume") == [[1, 1.0], [1, 1.0]]


def test_where_no_run_is_all_ranks_say_so_alike(folder: Path) -> None:
    one, other = outcomes(folder, "resume nothing")
    assert one.startswith("FileNotFoundError: there is no run to resume in ")
    assert one == other

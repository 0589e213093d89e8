"""Scoring on several ranks: the same numbers to the last bit, and mistakes alike on all of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

PROGRAM = Path(__file__).parent / "scoring_program.py"

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()),
    reason="this torch has no gloo to join processes with",
)


@pytest.fixture
def score(
    run_ranks: Callable[..., list[str]], tiny_config: Path, tmp_path: Path
) -> Callable[..., list[dict[str, Any]]]:
    """(ranks, batch_size, *words) -> what each rank saw of the seven images."""

    def run(ranks: int, batch_size: int, *words: str) -> list[dict[str, Any]]:
        folder = tmp_path / f"{ranks}_{batch_size}"
        folder.mkdir()
        annotations = tiny_config.parent / "train.json"
        run_ranks(ranks, PROGRAM, folder, annotations, batch_size, *words, seconds=30)
        return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(ranks)]

    return run


def test_1_2_3_and_8_ranks_give_the_same_result_to_the_last_bit(score: Any) -> None:
    [alone] = score(1, 3)
    assert 0.1 < alone["plain"]["metrics"]["bbox"]["AP"] < 0.9
    assert alone["plain"]["metrics"]["segm"]["AP"] > 0
    for ranks, batch_size in ((1, 1), (2, 2), (3, 1), (8, 4)):
        seen = score(ranks, batch_size)
        assert [rank["plain"] for rank in seen] == [alone["plain"]] * ranks
    assert [rank["images"] for rank in seen] == [1] * 7 + [0]


def test_wrong_images_are_one_error_on_all_ranks_and_asked_for_a_warning(score: Any) -> None:
    seen = score(3, 2, "mistakes")
    [message] = {rank["plain"] for rank in seen}
    assert "1 of 7 images have no prediction: 100. " in message
    assert "2 images were predicted more than once: 101, 102. " in message
    assert "1 images were predicted that the ground truth does not have: 4321; " in message
    [warned] = {json.dumps(rank["warned"]) for rank in seen}
    assert json.loads(warned)["num_images"] == 7
    assert seen[0]["stored"] == [101, 102, 102, 103, 104, 105, 106]

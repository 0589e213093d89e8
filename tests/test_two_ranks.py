"""`detengine train` on two ranks, from the images to the files."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist

from detengine.checkpoint.files import load_file
from detengine.evaluation.predictions_file import load_predictions
from detengine.run_report.record import load_sessions

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()),
    reason="this torch has no gloo to join two processes with",
)


@pytest.fixture(scope="module")
def folder(
    run_ranks: Callable[..., list[str]],
    tiny_config: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The output folder of a training that scored itself on the way and at the end."""
    folder = tmp_path_factory.mktemp("two_ranks") / "run"
    command = ["train", "-c", tiny_config, "--output-dir", folder]
    settings = ["SOLVER.MAX_ITER", "4", "SOLVER.TEST_PERIOD", "2", "SOLVER.CHECKPOINT_PERIOD", "3"]
    run_ranks(2, None, *command, *settings, "REPORT", "True")
    return folder


def test_two_ranks_write_one_set_of_files(folder: Path) -> None:
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    checkpoints = {"model_0000003.pth", "model_final.pth"}
    assert files == {
        *checkpoints,
        *(f"{name}.sha256" for name in checkpoints),
        "last_checkpoint",
        "config.yaml",
        "config.yaml.sha256",
        "environment.json",
        "report.html",
        "log.txt",
        "metrics.jsonl",
        "results.json",
        "per_class.json",
        "inference/shapes_val/bbox.json",
        "inference/shapes_val/segm.json",
        "inference/shapes_val/predictions.pth",
        "inference/shapes_val/predictions_rank1.pth",
        "pictures/shapes_val/100_val_0.png",
        "pictures/shapes_val/103_val_3.png",
    }
    checkpoint = load_file(folder / "model_final.pth")
    assert (checkpoint["iteration"], checkpoint["world_size"]) == (4, 2)


def test_two_ranks_log_and_measure_once(folder: Path) -> None:
    iterations = re.findall(r"iter: (\d+) ", (folder / "log.txt").read_text())
    assert iterations == ["2", "4"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [2, 2, 4, 4]
    results = json.loads((folder / "results.json").read_text())["shapes_val"]
    assert lines[-1]["val/shapes_val/bbox/AP"] == results["bbox"]["AP"]


def test_two_ranks_keep_one_record(folder: Path) -> None:
    (session,) = load_sessions(folder)
    assert (session.environment["ranks"], session.state, session.iteration) == ("2", "finished", 4)


def test_two_ranks_score_every_image_once(folder: Path) -> None:
    image_ids = [image_id for image_id, _ in load_predictions(folder / "inference/shapes_val")]
    assert image_ids == [100, 102, 101, 103]
    assert "Start evaluation on shapes_val dataset(4 images)" in (folder / "log.txt").read_text()

"""The command line within this process, and a finished run to use it on."""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from detengine.cli.main import main
from detengine.config.load import load_config, replace
from detengine.data.coco import load_coco
from detengine.evaluation.predictions_file import PredictionWriter
from detengine.run import train
from detengine.structures.prediction import Prediction


class Finished(NamedTuple):
    """A command's exit code, and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture
def detengine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Finished]:
    """(arguments) -> what the command `detengine` does with them. An exception passes through."""

    def run(*arguments: str | Path) -> Finished:
        monkeypatch.setattr(sys, "argv", ["detengine", *map(str, arguments)])
        monkeypatch.setenv("GOMP_SPINCOUNT", "10000")  # main would set it, and leave it behind
        capsys.readouterr()
        code: int | str | None = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
            if stop.__context__ is not None:
                # A loader that died in a garbage collection would wait 5 s for its worker.
                traceback.clear_frames(stop.__context__.__traceback__)
        assert code is None or isinstance(code, int)
        return Finished(code or 0, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def finished_run(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a training of two iterations on the tiny data, not scored."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    cfg = load_config(tiny_config)
    train(replace(cfg, {"OUTPUT_DIR": str(folder), "SOLVER.MAX_ITER": 2}), skip_test=True)
    return folder


@pytest.fixture
def store(tiny_config: Path, tmp_path: Path) -> Callable[..., Path]:
    """(name of the run, share of the objects found) -> the folder of its predictions."""

    def write(run: str, every: int, test_set: str = "shapes_val") -> Path:
        truth = load_coco(tiny_config.with_name("val.json"), None, "val")
        names = truth.categories.names
        folder = tmp_path / run / "inference" / test_set
        labels = truth.categories.labels_of_ids(names)
        with PredictionWriter(folder, names) as writer:
            for index, image_id in enumerate(truth.image_ids.tolist()):
                rows = truth.annotations_of(index)
                boxes = truth.boxes_xywh[rows][::every].float()
                boxes[:, 2:] += boxes[:, :2]
                found = truth.category_ids[rows][::every].apply_(lambda each: labels[each])
                scores = boxes.new_full((len(boxes),), 0.75)
                height, width = truth.image_sizes[index].tolist()
                writer.add(image_id, Prediction(boxes, scores, (height, width), found))
        return folder

    return write

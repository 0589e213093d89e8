"""Training, scoring and loading, from a configuration to the files in the output folder."""

import json
import math
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from detengine.checkpoint.files import load_file
from detengine.config.load import load_config, replace
from detengine.config.schema import Config
from detengine.evaluation.expected import ExpectedResultsError
from detengine.evaluation.predictions_file import load_class_names, load_predictions
from detengine.loading import load
from detengine.run import RunResult, evaluate, train
from detengine.structures.prediction import Prediction

COCO_METRICS = [
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
]
LOSSES = ["objectness", "rpn_box_reg", "classifier", "box_reg", "mask"]


class Trained(NamedTuple):
    """A finished run of six iterations that scored itself after the third and the sixth."""

    cfg: Config
    result: RunResult
    folder: Path


@pytest.fixture
def make_config(tiny_config: Path, tmp_path: Path) -> Callable[..., Config]:
    """(changes by dotted key) -> the tiny configuration, its output in a folder of this test."""

    def make(changes: dict[str, Any] | None = None) -> Config:
        return replace(
            load_config(tiny_config), {"OUTPUT_DIR": str(tmp_path / "run"), **(changes or {})}
        )

    return make


@pytest.fixture(scope="module")
def trained(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained") / "run"
    changes = {
        "OUTPUT_DIR": str(folder),
        "SOLVER.MAX_ITER": 6,
        "SOLVER.TEST_PERIOD": 3,
        "SOLVER.CHECKPOINT_PERIOD": 4,
    }
    cfg = replace(load_config(tiny_config), changes)
    return Trained(cfg, train(cfg), folder)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights_of(folder: Path, name: str = "model_final.pth") -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_file(folder / name)["model"]
    return weights


def stored_predictions(folder: Path, test_set: str = "shapes_val") -> list[tuple[int, Prediction]]:
    return list(load_predictions(folder / "inference" / test_set))


def assert_equal_predictions(one: Prediction, other: Prediction) -> None:
    assert one.size == other.size
    assert torch.equal(one.boxes_xyxy, other.boxes_xyxy)
    assert torch.equal(one.scores, other.scores)
    assert one.labels is not None
    assert other.labels is not None
    assert torch.equal(one.labels, other.labels)
    assert one.encoded().rles == other.encoded().rles


# What a training leaves behind


def test_a_training_gives_the_model_its_results_and_its_folder(trained: Trained) -> None:
    result = trained.result
    assert result.finished
    assert result.output_folder == trained.folder
    assert list(result.results) == ["shapes_val"]
    assert result.results["shapes_val"].num_images == 4
    weights = weights_of(trained.folder)
    for name, value in result.model.state_dict().items():
        assert torch.equal(value, weights[name])


def test_everything_that_is_promised_lies_in_the_output_folder(trained: Trained) -> None:
    files = {
        str(path.relative_to(trained.folder))
        for path in trained.folder.rglob("*")
        if path.is_file()
    }
    assert files == {
        "config.yaml",
        "config.yaml.sha256",
        "inference/shapes_val/bbox.json",
        "inference/shapes_val/segm.json",
        "inference/shapes_val/predictions.pth",
        "last_checkpoint",
        "log.txt",
        "metrics.jsonl",
        "model_0000004.pth",
        "model_0000004.pth.sha256",
        "model_final.pth",
        "model_final.pth.sha256",
        "pictures/shapes_val/100_val_0.png",
        "pictures/shapes_val/103_val_3.png",
        "results.json",
        "per_class.json",
    }
    assert (trained.folder / "last_checkpoint").read_text() == "model_final.pth\n"


def test_the_metrics_have_their_fixed_names(trained: Trained) -> None:
    losses = [f"train/loss_{name}" for name in LOSSES]
    of_training = {"iteration", "train/loss", *losses, "train/lr", "train/time", "train/data"}
    of_training.add("train/max_mem")
    of_scoring = {"iteration"} | {
        f"val/shapes_val/{kind}/{name}" for kind in ("bbox", "segm") for name in COCO_METRICS
    }
    lines = read_metrics(trained.folder)
    assert [line["iteration"] for line in lines] == [2, 3, 4, 6, 6]
    expected = [of_training, of_scoring, of_training, of_training, of_scoring]
    assert [set(line) for line in lines] == expected
    assert all(math.isfinite(value) for line in lines for value in line.values())


def test_the_last_score_of_the_training_is_the_final_one(trained: Trained) -> None:
    last = read_metrics(trained.folder)[-1]
    assert last == {"iteration": 6, **trained.result.results["shapes_val"].flat("val/shapes_val")}


def test_the_stored_configuration_is_the_runs_with_its_classes_counted(trained: Trained) -> None:
    stored = load_config(trained.folder / "config.yaml")
    assert stored == replace(trained.cfg, {"MODEL.ROI_BOX_HEAD.NUM_CLASSES": 4})


def test_the_results_are_fractions_by_set_and_kind(trained: Trained) -> None:
    results = json.loads((trained.folder / "results.json").read_text())
    assert results == {"shapes_val": trained.result.results["shapes_val"].metrics}
    assert {kind: list(metrics) for kind, metrics in results["shapes_val"].items()} == {
        "bbox": COCO_METRICS,
        "segm": COCO_METRICS,
    }
    values = [value for metrics in results["shapes_val"].values() for value in metrics.values()]
    assert all(value == -1 or 0 <= value <= 1 for value in values)


def test_the_log_has_a_line_for_each_period_and_the_total_time(trained: Trained) -> None:
    log = (trained.folder / "log.txt").read_text()
    number = r"\d+\.\d{4} \(\d+\.\d{4}\)"
    pattern = rf"eta: [\d:]+  iter: (\d+)  loss: {number}  .* lr: \d\.\d{{6}}  max mem: \d+\n"
    assert re.findall(pattern, log) == ["2", "4", "6"]
    assert re.search(r"Total training time: .* s / it\)", log)


def test_the_pictures_can_be_opened(trained: Trained) -> None:
    for path in sorted((trained.folder / "pictures").rglob("*.png")):
        with Image.open(path) as picture:
            picture.load()
            assert min(picture.size) > 96


def test_predicted_boxes_stay_within_their_image(trained: Trained) -> None:
    predictions = stored_predictions(trained.folder)
    assert sum(len(each) for _, each in predictions) > 0
    for _, prediction in predictions:
        height, width = prediction.size
        boxes = prediction.boxes_xyxy
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()


# Scoring and using what was trained


def test_evaluating_the_last_weights_gives_the_results_of_the_training(
    trained: Trained, tmp_path: Path
) -> None:
    cfg = replace(trained.cfg, {"OUTPUT_DIR": str(tmp_path)})
    assert evaluate(cfg, trained.folder / "model_final.pth") == trained.result.results
    assert (tmp_path / "results.json").read_bytes() == (
        trained.folder / "results.json"
    ).read_bytes()
    again = stored_predictions(tmp_path)
    for (image_id, new), (expected_id, old) in zip(
        again, stored_predictions(trained.folder), strict=True
    ):
        assert image_id == expected_id
        assert_equal_predictions(new, old)


def test_a_loaded_run_predicts_what_was_stored(trained: Trained, tiny_config: Path) -> None:
    # the batches of the evaluation: how far an image is padded depends on its neighbours
    predictor = load(trained.folder, device="cpu", batch_size=2)
    assert predictor.class_names == ("disc", "bar", "wedge")
    images = [
        np.asarray(Image.open(tiny_config.parent / "images" / f"val_{index}.jpg"))
        for index in range(4)
    ]
    for found, (_, stored) in zip(
        predictor(images), stored_predictions(trained.folder), strict=True
    ):
        assert_equal_predictions(found.prediction, stored)


# Going on, and beginning from weights


def test_a_folder_with_a_run_is_not_trained_in_again(trained: Trained) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.folder.rglob("*")}
    with pytest.raises(FileExistsError, match=r"holds a run already .*--resume .*OUTPUT_DIR"):
        train(trained.cfg)
    assert {path: path.stat().st_mtime_ns for path in trained.folder.rglob("*")} == before


def test_an_interrupted_run_stops_with_a_checkpoint_and_ends_as_an_unbroken_one(
    trained: Trained, tmp_path: Path, interrupted_at: Callable[[str], AbstractContextManager[None]]
) -> None:
    cfg = replace(trained.cfg, {"OUTPUT_DIR": str(tmp_path)})
    with interrupted_at("iter: 2 "):
        stopped = train(cfg)
    assert not stopped.finished
    assert stopped.results == {}
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth\n"
    assert load_file(tmp_path / "model_0000003.pth")["iteration"] == 3
    assert not (tmp_path / "model_final.pth").exists()

    resumed = train(cfg, resume=True)
    assert resumed.finished
    assert resumed.results == trained.result.results
    unbroken = weights_of(trained.folder)
    for name, value in weights_of(tmp_path).items():
        assert torch.equal(value, unbroken[name])
    assert [line["iteration"] for line in read_metrics(tmp_path)][-3:] == [4, 6, 6]


def test_resuming_where_there_is_no_run_starts_one_and_says_so(
    make_config: Callable[..., Config],
) -> None:
    cfg = make_config({"SOLVER.MAX_ITER": 1})
    result = train(cfg, resume=True, skip_test=True)
    assert result.finished
    log = (result.output_folder / "log.txt").read_text()
    assert f"there is no run in {result.output_folder} to resume; a new one starts" in log


def test_a_finished_run_resumed_is_only_scored(
    make_config: Callable[..., Config],
) -> None:
    cfg = make_config({"SOLVER.MAX_ITER": 1})
    first = train(cfg, skip_test=True)
    assert first.results == {}
    assert not (first.output_folder / "results.json").exists()
    weights = weights_of(first.output_folder)
    second = train(cfg, resume=True)
    assert second.finished
    assert list(second.results) == ["shapes_val"]
    for name, value in weights_of(second.output_folder).items():
        assert torch.equal(value, weights[name])


def test_named_weights_are_where_a_training_begins_and_bring_no_iteration(
    trained: Trained, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    weight = str(trained.folder / "model_final.pth")
    changes = {"MODEL.WEIGHT": weight, "SOLVER.MAX_ITER": 0}
    untrained = train(make_config(changes), skip_test=True)
    given = weights_of(trained.folder)
    for name, value in untrained.model.state_dict().items():
        assert torch.equal(value, given[name])

    changes = {"MODEL.WEIGHT": weight, "SOLVER.MAX_ITER": 2, "OUTPUT_DIR": str(tmp_path / "on")}
    on = train(make_config(changes), skip_test=True)
    assert [line["iteration"] for line in read_metrics(on.output_folder)] == [2]


def test_averaged_weights_begin_at_the_named_ones(
    trained: Trained, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    changes = {
        "MODEL.WEIGHT": str(trained.folder / "model_final.pth"),
        "OUTPUT_DIR": str(tmp_path),
        "SOLVER.EMA_DECAY": 0.999,
        "SOLVER.MAX_ITER": 1,
    }
    train(make_config(changes), skip_test=True)
    averaged = load_file(tmp_path / "model_final.pth")["ema"]["weights"]
    for name, value in weights_of(trained.folder).items():
        assert torch.allclose(averaged[name], value, atol=1e-4)


# Options of the training


def test_averaged_weights_are_scored_and_the_others_trained_on(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    cfg = make_config({"SOLVER.EMA_DECAY": 0.5})
    result = train(cfg)
    path = result.output_folder / "model_final.pth"
    checkpoint = load_file(path)
    averaged, raw = checkpoint["ema"]["weights"], checkpoint["model"]
    assert any(not torch.equal(averaged[name], raw[name]) for name in raw)
    for name, value in result.model.state_dict().items():
        assert torch.equal(value, raw[name])

    def scores_of(weights: dict[str, torch.Tensor], folder: str) -> list[torch.Tensor]:
        torch.save({"model": weights, "categories": checkpoint["categories"]}, tmp_path / "w.pth")
        evaluate(replace(cfg, {"OUTPUT_DIR": str(tmp_path / folder)}), tmp_path / "w.pth")
        return [each.scores for _, each in stored_predictions(tmp_path / folder)]

    of_run = [each.scores for _, each in stored_predictions(result.output_folder)]
    assert all(map(torch.equal, of_run, scores_of(averaged, "averaged")))
    assert not all(map(torch.equal, of_run, scores_of(raw, "raw")))
    evaluated = evaluate(replace(cfg, {"OUTPUT_DIR": str(tmp_path / "all")}), path)
    assert evaluated == result.results


def test_scoring_on_the_way_changes_nothing(
    trained: Trained, make_config: Callable[..., Config]
) -> None:
    changes = {"SOLVER.MAX_ITER": 6, "SOLVER.TEST_PERIOD": 0, "SOLVER.CHECKPOINT_PERIOD": 100}
    result = train(make_config(changes), skip_test=True)
    scored_on_the_way = weights_of(trained.folder)
    for name, value in weights_of(result.output_folder).items():
        assert torch.equal(value, scored_on_the_way[name])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_trains_weights_of_full_precision(
    make_config: Callable[..., Config], dtype: str
) -> None:
    cfg = make_config({"DTYPE": dtype, "SOLVER.MAX_ITER": 2, "SOLVER.LOG_PERIOD": 1})
    result = train(cfg, skip_test=True)
    losses = [line["train/loss"] for line in read_metrics(result.output_folder)]
    assert all(math.isfinite(loss) for loss in losses)
    for value in result.model.state_dict().values():
        assert value.dtype == torch.float32
        assert value.isfinite().all()


def test_accumulated_batches_are_one_iteration(make_config: Callable[..., Config]) -> None:
    changes = {"SOLVER.ACCUMULATE": 2, "SOLVER.IMS_PER_BATCH": 4, "SOLVER.MAX_ITER": 2}
    result = train(make_config(changes), skip_test=True)
    assert result.finished
    checkpoint = load_file(result.output_folder / "model_final.pth")
    assert checkpoint["iteration"] == 2
    assert [line["iteration"] for line in read_metrics(result.output_folder)] == [2]


# Data sets


def test_several_sets_are_trained_on_together_and_scored_each(
    make_config: Callable[..., Config],
) -> None:
    changes = {
        "DATASETS.TRAIN": ("shapes_train", "voc_train"),
        "DATASETS.TEST": ("shapes_val", "voc_val"),
        "MODEL.MASK_ON": False,
        "SOLVER.MAX_ITER": 2,
    }
    result = train(make_config(changes))
    assert list(result.results) == ["shapes_val", "voc_val"]
    of_coco, of_voc = result.results.values()
    assert list(of_coco.metrics) == ["bbox"]
    assert list(of_voc.metrics) == ["bbox", "voc2007", "voc2012"]
    # the same pictures and boxes; VOC's classes stand in another order in their files
    assert of_coco.per_class["bbox"] == pytest.approx(of_voc.per_class["bbox"], abs=1e-6)
    folder = result.output_folder
    for (_, one), (_, other) in zip(
        stored_predictions(folder), stored_predictions(folder, "voc_val"), strict=True
    ):
        assert_equal_predictions(one, other)


def test_a_voc_set_is_trained_on_and_scored(make_config: Callable[..., Config]) -> None:
    changes = {
        "DATASETS.TRAIN": ("voc_train",),
        "DATASETS.TEST": ("voc_val",),
        "MODEL.MASK_ON": False,
        "SOLVER.MAX_ITER": 1,
    }
    result = train(make_config(changes))
    assert list(result.results["voc_val"].per_class["bbox"]) == ["bar", "disc", "wedge"]
    assert result.results["voc_val"].num_images == 4


def test_of_a_choice_of_classes_nothing_else_is_trained_or_scored(
    make_config: Callable[..., Config],
) -> None:
    cfg = make_config({"DATASETS.CLASSES": ("wedge", "disc"), "SOLVER.MAX_ITER": 1})
    result = train(cfg)
    for per_class in result.results["shapes_val"].per_class.values():
        assert set(per_class) == {"wedge", "disc"}
    folder = result.output_folder
    assert load_file(folder / "model_final.pth")["categories"] == ["wedge", "disc"]
    assert load_config(folder / "config.yaml").MODEL.ROI_BOX_HEAD.NUM_CLASSES == 3
    assert load_class_names(folder / "inference/shapes_val") == ("wedge", "disc")


def test_images_without_annotations_are_trained_on(
    write_tiny_run: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = write_tiny_run(tmp_path)
    annotations = tmp_path / "train.json"
    content = json.loads(annotations.read_text())
    annotations.write_text(json.dumps(content | {"annotations": []}))
    result = train(load_config(path, ["SOLVER.MAX_ITER", "2"]), skip_test=True)
    losses = read_metrics(result.output_folder)[-1]
    assert losses["train/loss_objectness"] > 0
    assert losses["train/loss_classifier"] > 0
    for name in ("rpn_box_reg", "box_reg", "mask"):
        assert losses[f"train/loss_{name}"] == 0


# Expected results


def test_a_missed_expectation_is_an_error_after_everything_is_written(
    make_config: Callable[..., Config],
) -> None:
    cfg = make_config(
        {
            "SOLVER.MAX_ITER": 2,
            "SOLVER.TEST_PERIOD": 1,
            "TEST.EXPECTED_RESULTS": (("bbox", "AP", (0.9, 0.01)),),
        }
    )
    with pytest.raises(ExpectedResultsError, match=r"1 of 1 expected results were missed"):
        train(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    assert json.loads((folder / "results.json").read_text())["shapes_val"]["bbox"]["AP"] < 0.5
    assert [line["iteration"] for line in read_metrics(folder)] == [1, 2, 2]
    assert (folder / "model_final.pth").exists()

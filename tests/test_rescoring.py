"""Predictions scored again, without a model: `eval --predictions`, and an interrupted `eval`."""

import contextlib
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detengine.config.load import load_config, replace, to_yaml
from detengine.config.schema import Config
from detengine.evaluation.expected import ExpectedResultsError
from detengine.evaluation.predictions_file import load_predictions
from detengine.rescoring import Subset, rescore
from detengine.run import RunResult, evaluate, train


@pytest.fixture(scope="module")
def cfg(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("rescored") / "run"
    changes = {
        "OUTPUT_DIR": str(folder),
        "SOLVER.MAX_ITER": 6,
        "DATASETS.TEST": ("shapes_val", "shapes_train"),
        "MODEL.ROI_HEADS.SCORE_THRESH": 0.0,
    }
    return replace(load_config(tiny_config), changes)


@pytest.fixture(scope="module")
def trained(cfg: Config) -> RunResult:
    return train(cfg)


@pytest.fixture
def of_shapes(cfg: Config) -> Config:
    return replace(cfg, {"DATASETS.TEST": ("shapes_val",)})


def annotations_of(cfg: Config) -> Path:
    definition: Any = cfg.DATASETS.DEFINE["shapes_val"]
    return Path(cfg.DATASETS.ROOT) / definition.ANNOTATIONS


def reference(cfg: Config, folder: Path, iou_type: str, **params: Any) -> list[float]:
    """pycocotools on the result file that the run wrote."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(annotations_of(cfg).read_text())
        truth.createIndex()
        for annotation in truth.dataset["annotations"]:  # as load_coco fills in what is left out
            annotation["iscrowd"] = 0
            annotation["area"] = float(mask.area(truth.annToRLE(annotation)))
        truth.createIndex()
        found = truth.loadRes(str(folder / "inference/shapes_val" / f"{iou_type}.json"))
        evaluation = COCOeval(truth, found, iou_type)
        for name, value in params.items():
            setattr(evaluation.params, name, value)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def test_the_stored_predictions_of_all_test_sets_have_the_scores_of_the_run(
    cfg: Config, trained: RunResult, tmp_path: Path
) -> None:
    found = rescore(cfg, trained.output_folder / "inference", output_folder=tmp_path)
    assert found == trained.results
    written = json.loads((tmp_path / "results.json").read_text())
    assert written == json.loads((trained.output_folder / "results.json").read_text())


def test_the_result_files_have_the_scores_of_the_run_with_no_configuration_at_all(
    cfg: Config, trained: RunResult
) -> None:
    modern = load_config(None, ["CONVENTIONS", "modern"])
    for iou_type in ("bbox", "segm"):
        path = trained.output_folder / "inference/shapes_val" / f"{iou_type}.json"
        [result] = rescore(modern, path, annotations=annotations_of(cfg)).values()
        expected = trained.results["shapes_val"].metrics[iou_type]
        assert result.metrics == {iou_type: expected}
        assert list(expected.values()) == reference(cfg, trained.output_folder, iou_type)


def test_stored_predictions_can_be_scored_with_annotations_alone(
    cfg: Config, trained: RunResult
) -> None:
    modern = load_config(None, ["CONVENTIONS", "modern"])
    folder = trained.output_folder / "inference/shapes_val"
    found = rescore(modern, folder, annotations=annotations_of(cfg), iou_types=("segm",))
    assert found[annotations_of(cfg).stem].metrics == {
        "segm": trained.results["shapes_val"].metrics["segm"]
    }


def test_other_thresholds_areas_and_limits_are_options_of_the_configuration(
    of_shapes: Config, trained: RunResult
) -> None:
    changes = {
        "TEST.IOU_THRESHOLDS": (0.2, 0.5),
        "TEST.AREA_RANGES": {"tiny": (0.0, 200.0)},
        "TEST.MAX_DETECTIONS": (3,),
    }
    found = rescore(replace(of_shapes, changes), trained.output_folder / "inference")
    metrics = found["shapes_val"].metrics["bbox"]
    assert list(metrics) == ["AP", "AP50", "AP_tiny", "AR3", "AR_tiny"]


@pytest.mark.parametrize("source", ["", "bbox.json"])
def test_some_classes_and_images_are_scored_as_by_pycocotools(
    of_shapes: Config, trained: RunResult, source: str
) -> None:
    folder = trained.output_folder / "inference/shapes_val"
    truth = json.loads(annotations_of(of_shapes).read_text())
    ids = {each["name"]: each["id"] for each in truth["categories"]}
    image_ids = [each["id"] for each in truth["images"]][1:3]
    found = rescore(
        of_shapes,
        folder / source if source else folder,
        iou_types=("bbox",),
        subset=Subset(["disc", "wedge"], image_ids),
    )
    params = {"catIds": sorted((ids["disc"], ids["wedge"])), "imgIds": image_ids}
    expected = reference(of_shapes, trained.output_folder, "bbox", **params)
    result = found["shapes_val"]
    assert list(result.metrics["bbox"].values()) == expected
    assert set(result.per_class["bbox"]) == {"disc", "wedge"}
    assert result.num_images == 2


def test_expected_results_may_be_of_one_test_set_and_all_that_is_missed_is_said(
    cfg: Config, trained: RunResult
) -> None:
    expected = [("shapes_train/segm", "AP50", (2.0, 0.1)), ("bbox", "AP", (3.0, 0.1))]
    changed = replace(cfg, {"TEST.EXPECTED_RESULTS": expected})
    with pytest.raises(ExpectedResultsError) as error:
        rescore(changed, trained.output_folder / "inference")
    lines = str(error.value).splitlines()
    assert lines[0] == "3 of 3 expected results were missed:"
    assert [line.split(" sanity")[0] for line in lines[1:]] == [
        "shapes_val: bbox > AP",
        "shapes_train: segm > AP50",
        "shapes_train: bbox > AP",
    ]


@pytest.mark.parametrize(
    ("place", "subset", "message"),
    [
        ("nowhere", Subset(), r"there are no predictions at .*nowhere"),
        ("log.txt", Subset(), r"log\.txt is no file of predictions"),
        ("inference/shapes_val", Subset(["cat"]), r"by the classes 'cat': the data set has"),
        ("inference/shapes_val", Subset(None, [7]), r"by the images 7: the data set has 4 images"),
    ],
)
def test_what_cannot_be_scored_is_one_error(
    of_shapes: Config, trained: RunResult, place: str, subset: Subset, message: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        rescore(of_shapes, trained.output_folder / place, subset=subset)


def test_of_several_test_sets_each_needs_its_folder(cfg: Config, trained: RunResult) -> None:
    with pytest.raises(FileNotFoundError, match="has no predictions of 'shapes_val'"):
        rescore(cfg, trained.output_folder / "inference/shapes_val")


class Interrupted:
    """A scoring of four images that found the third one's file damaged."""

    def __init__(self, cfg: Config, weights: Path) -> None:
        self.cfg, self.weights = cfg, weights
        definition: Any = cfg.DATASETS.DEFINE["shapes_val"]
        truth = json.loads(annotations_of(cfg).read_text())
        images = Path(cfg.DATASETS.ROOT) / definition.IMAGES
        third = images / truth["images"][2]["file_name"]
        results = Path(cfg.OUTPUT_DIR) / "results.json"
        results.parent.mkdir()
        results.write_text('{"shapes_val": {"bbox": {"AP": 0.9}}}')
        picture = third.read_bytes()
        third.write_bytes(picture[:50])
        with pytest.raises(ValueError, match=third.name):
            evaluate(cfg, weights)
        third.write_bytes(picture)
        assert not results.exists()  # which were of other weights
        self.folder = Path(cfg.OUTPUT_DIR) / "inference/shapes_val"


@pytest.fixture
def interrupted(write_tiny_run: Callable[[Path], Path], tmp_path: Path) -> Interrupted:
    changes = {
        "SOLVER.MAX_ITER": 2,
        "TEST.IMS_PER_BATCH": 1,
        "DATALOADER.NUM_WORKERS": 0,
        "OUTPUT_DIR": str(tmp_path / "run"),
    }
    cfg = replace(load_config(write_tiny_run(tmp_path / "data")), changes)
    train(cfg, skip_test=True)
    scored = replace(cfg, {"OUTPUT_DIR": str(tmp_path / "scored")})
    return Interrupted(scored, tmp_path / "run/model_final.pth")


def predicted_already(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each for each in caplog.messages if "are predicted already" in each]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logger = logging.getLogger("detengine.scoring")
    logger.addHandler(caplog.handler)
    return caplog


def test_an_interrupted_scoring_goes_on_with_the_missing_images(
    interrupted: Interrupted, log: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    assert [image_id for image_id, _ in load_predictions(interrupted.folder)] == [100, 101]
    before = {path.name: path.stat().st_mtime_ns for path in interrupted.folder.glob("*.pth")}
    found = evaluate(interrupted.cfg, interrupted.weights, resume=True)
    assert predicted_already(log) == [f"2 images are predicted already in {interrupted.folder}"]
    stored = dict(load_predictions(interrupted.folder))
    assert list(stored) == [100, 101, 102, 103]
    after = {path.name: path.stat().st_mtime_ns for path in interrupted.folder.glob("*.pth")}
    assert before.items() < after.items()
    unbroken = replace(interrupted.cfg, {"OUTPUT_DIR": str(tmp_path / "unbroken")})
    assert found == evaluate(unbroken, interrupted.weights)
    for image_id, prediction in load_predictions(tmp_path / "unbroken/inference/shapes_val"):
        assert torch.equal(prediction.boxes_xyxy, stored[image_id].boxes_xyxy)


def test_without_resume_a_scoring_begins_anew(
    interrupted: Interrupted, log: pytest.LogCaptureFixture
) -> None:
    (interrupted.folder / "keypoints.json").write_text("what other weights found")
    evaluate(interrupted.cfg, interrupted.weights)
    assert not (interrupted.folder / "keypoints.json").exists()
    assert not predicted_already(log)
    assert [key for key, _ in load_predictions(interrupted.folder)] == [100, 101, 102, 103]


@pytest.mark.parametrize("change", [{"INPUT.MIN_SIZE_TEST": 40}, {"DTYPE": "bfloat16"}, {}])
def test_what_other_weights_or_another_configuration_predicted_is_not_gone_on_with(
    interrupted: Interrupted,
    log: pytest.LogCaptureFixture,
    tmp_path: Path,
    change: dict[str, Any],
) -> None:
    cfg, weights = replace(interrupted.cfg, change), interrupted.weights
    if not change:
        again = replace(interrupted.cfg, {"OUTPUT_DIR": str(tmp_path / "other"), "SEED": 5})
        train(again, skip_test=True)
        weights = tmp_path / "other/model_final.pth"
    evaluate(cfg, weights, resume=True)
    assert not predicted_already(log)
    assert "there was nothing to resume, and they were removed" in log.text
    assert [key for key, _ in load_predictions(interrupted.folder)] == [100, 101, 102, 103]


def test_several_ranks_go_on_with_what_one_has_predicted(
    interrupted: Interrupted, run_ranks: Callable[..., list[str]], tmp_path: Path
) -> None:
    file = tmp_path / "scored.yaml"
    file.write_text(to_yaml(interrupted.cfg))
    run_ranks(2, None, "eval", "-c", file, "--weights", interrupted.weights, "--resume")
    folder = Path(interrupted.cfg.OUTPUT_DIR)
    of_ranks = json.loads((folder / "results.json").read_text())
    assert "2 images are predicted already" in (folder / "log.txt").read_text()
    assert sorted(key for key, _ in load_predictions(interrupted.folder)) == [100, 101, 102, 103]
    alone = evaluate(interrupted.cfg, interrupted.weights)
    assert of_ranks["shapes_val"] == alone["shapes_val"].to_json()

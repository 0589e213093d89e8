"""The doctor on a healthy run, a sick one, and a model that cannot run. It leaves no trace."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detengine.config.load import load_config, replace
from detengine.config.schema import Config
from detengine.doctor.diagnosis import Diagnosis, examine
from detengine.structures.finding import Finding

WORKERS = ["DATALOADER.NUM_WORKERS", "1"]


def quiet(_: str) -> None:
    """Nobody listens."""


def files_in(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def severe(diagnosis: Diagnosis) -> list[Finding]:
    return [each for each in diagnosis.findings if each.severity == "error"]


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def config(write_tiny_run: Callable[[Path], Path], tmp_path: Path) -> Path:
    """A tiny run whose data may be spoiled."""
    return write_tiny_run(tmp_path)


@pytest.fixture(scope="module")
def healthy(
    write_tiny_run: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Diagnosis, set[Path]]:
    """What is found in a healthy run, and the paths that were changed by looking."""
    folder = tmp_path_factory.mktemp("healthy")
    cfg = load_config(write_tiny_run(folder), WORKERS)
    before = files_in(folder)
    diagnosis = examine(cfg, say=quiet)
    after = files_in(folder)
    return diagnosis, {path for path in before | after if before.get(path) != after.get(path)}


def test_in_a_healthy_run_there_is_no_error(healthy: tuple[Diagnosis, set[Path]]) -> None:
    diagnosis, _ = healthy
    assert severe(diagnosis) == []
    assert diagnosis.is_healthy(strict=False)
    assert not diagnosis.is_healthy(strict=True)  # of rare classes


def test_nothing_is_left_behind(healthy: tuple[Diagnosis, set[Path]]) -> None:
    assert healthy[1] == set()


def test_steps_scoring_checkpoint_and_loader_are_measured(
    healthy: tuple[Diagnosis, set[Path]],
) -> None:
    done = healthy[0].dry_run
    assert done is not None
    names = [each.what for each in done.steps]
    assert names[:4] == ["step 1", "step 2", "step 3", "the largest padded area"]
    assert names[-1] == "evaluation, shapes_val"
    assert all(each.seconds > 0 and each.memory_mb > 0 and each.images == 2 for each in done.steps)
    assert done.loader_images_per_second is not None
    assert done.checkpoint_bytes is not None
    assert done.checkpoint_bytes > 2**16
    assert done.batch_bytes is not None
    assert done.batch_bytes >= 2 * 3 * 96 * 96


def test_the_diagnosis_is_of_plain_types(healthy: tuple[Diagnosis, set[Path]]) -> None:
    content = healthy[0].to_json()
    assert json.loads(json.dumps(content)).keys() == content.keys()
    assert content["data_sets"]["shapes_train"] == {
        "images": 7,
        "annotations": 10,
        "unusable_images": 0,
    }
    assert content["classes"]["shapes_val"]["disc"] == {"objects": 3, "images": 3}


def examine_data(config: Path, *overrides: str) -> Diagnosis:
    return examine(load_config(config, overrides), with_model=False, say=quiet)


def test_every_defect_is_named_beside_the_others(config: Path) -> None:
    images = config.parent / "images"
    (images / "train_0.jpg").write_bytes((images / "train_0.jpg").read_bytes()[:600])
    (images / "train_1.jpg").write_text("not a picture")
    (images / "train_2.jpg").unlink()
    shutil.copy(images / "train_3.jpg", images / "val_0.jpg")

    def spoil(content: dict[str, Any]) -> None:
        annotations = content["annotations"]
        annotations[0]["category_id"] = 99
        annotations[1]["segmentation"] = [[1, 2, 3, 4]]
        annotations[2]["bbox"] = [900, 900, 5, 5]
        annotations[3]["segmentation"] = {"size": [9, 9], "counts": [81]}
        annotations[4]["id"] = annotations[5]["id"]
        annotations[6]["bbox"] = [5, 5, 0, 20]
        annotations.append({**annotations[7], "id": 500})

    edit(config.with_name("train.json"), spoil)
    edit(
        config.with_name("val.json"),
        lambda content: content["categories"].append({"id": 1, "name": "cube"}),
    )
    diagnosis = examine_data(config)
    said = [f"{each.severity} {each.where} {each.what} {each.cure}" for each in diagnosis.findings]
    for severity, where, part in (
        ("error", "shapes_train", "unknown category 99"),
        ("error", "shapes_train", "at least three points"),
        ("error", "shapes_train", "lies entirely outside of its image"),
        ("error", "shapes_train", "of an image of [9, 9]"),
        ("error", "shapes_train", "stands twice; each must be unique"),
        ("error", "shapes_train", "train_0.jpg cannot be read as an image"),
        ("error", "shapes_train", "it is text, which begins with 'not a picture'"),
        ("error", "shapes_train", "train_2.jpg does not exist"),
        ("error", "shapes_val", "classes that the model does not know: cube"),
        ("warning", "shapes_train", "without width or height"),
        ("warning", "shapes_train", "that stands twice: the same class and box"),
        ("warning", "shapes_train and shapes_val", "train_3.jpg = val_0.jpg"),
    ):
        assert any(each.startswith(f"{severity} {where}") and part in each for each in said), part
    assert all(each.cure for each in severe(diagnosis))
    assert not diagnosis.is_healthy(strict=False)


def test_what_can_be_trained_on_is_tried_in_spite_of_broken_images(config: Path) -> None:
    (config.parent / "images/train_1.jpg").unlink()
    cfg = load_config(config, ["MODEL.ROI_BOX_HEAD.NUM_CLASSES", "3"])
    diagnosis = examine(cfg, say=quiet)
    texts = " ".join(each.what for each in severe(diagnosis))
    assert "train_1.jpg does not exist" in texts
    assert texts.count("a label beyond NUM_CLASSES") == 1
    assert len(severe(diagnosis)) == 2
    assert diagnosis.dry_run is not None
    assert len(diagnosis.dry_run.steps) >= 4


@pytest.mark.parametrize(
    ("overrides", "where", "what"),
    [
        (["DATASETS.TRAIN", "[]"], "DATASETS", "DATASETS.TRAIN is empty"),
        (["DATASETS.TRAIN", "[shape_train]"], "shape_train", "is not defined under"),
        (["DATASETS.DEFINE.shapes_train.ANNOTATIONS", "a.json"], "shapes_train", "a.json does not"),
        (["DATASETS.DEFINE.shapes_train.IMAGES", "gone"], "shapes_train", "none of its 7 images"),
        (["TEST.EXPECTED_RESULTS", "[[bbox, XY, [1, 1]]]"], "the configuration", "XY"),
        (["MODEL.MASK_ON", "False", "MODEL.KEYPOINT_ON", "True"], "shapes_train", "no keypoints"),
    ],
)
def test_what_a_training_would_refuse_is_an_error(
    tiny_config: Path, overrides: list[str], where: str, what: str
) -> None:
    errors = severe(examine_data(tiny_config, *overrides))
    assert any(each.where.startswith(where) and what in each.what for each in errors), errors


def test_a_batch_that_ranks_cannot_share_is_an_error(tiny_config: Path) -> None:
    diagnosis = examine(load_config(tiny_config), with_model=False, ranks=4, say=quiet)
    [error] = severe(diagnosis)
    assert "cannot be divided among 4 ranks" in error.what


def test_anchors_that_miss_the_boxes_are_a_warning_with_better_ones(tiny_config: Path) -> None:
    diagnosis = examine_data(tiny_config, "MODEL.RPN.ANCHOR_SIZES", "[300, 600]")
    [finding] = [each for each in diagnosis.findings if each.where == "anchors"]
    assert finding.severity == "warning"
    assert "100 % of the boxes overlap no anchor by half" in finding.what
    assert "Set MODEL.RPN.ANCHOR_SIZES to [" in finding.cure
    assert diagnosis.anchors is not None
    assert diagnosis.anchors.fit.share_below_half == 1.0


def test_a_set_that_is_trained_on_and_scored_is_a_warning(tiny_config: Path) -> None:
    diagnosis = examine_data(tiny_config, "DATASETS.TEST", "[shapes_train]")
    assert any("trained on and scored" in each.what for each in diagnosis.findings)


def test_a_rotated_image_is_a_note(config: Path) -> None:
    path = config.parent / "images/train_3.jpg"
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(path) as image:
        image.save(path, exif=exif)
    notes = [each for each in examine_data(config).findings if each.severity == "note"]
    assert any("1 image with an EXIF orientation: train_3.jpg" in each.what for each in notes)


def with_builder(config: Path, name: str) -> Config:
    cfg = load_config(config, ["MODEL.BUILDER", f"sick_detectors:{name}"])
    return replace(cfg, {"MODEL.MASK_ON": False})


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("greedy", "the memory is not enough"),
        ("broken", "KeyError: 'no such layer'"),
        ("not_a_number", "not finite: loss"),
    ],
)
def test_a_model_that_fails_is_a_finding_and_ends_nothing_else(
    tiny_config: Path, name: str, what: str
) -> None:
    diagnosis = examine(with_builder(tiny_config, name), say=quiet)
    errors = severe(diagnosis)
    assert any(what in each.what for each in errors), errors
    assert diagnosis.dry_run is not None
    assert diagnosis.dry_run.checkpoint_bytes is not None
    assert diagnosis.dry_run.loader_images_per_second is not None
    assert any(each.what.startswith("evaluation") for each in diagnosis.dry_run.steps)


def test_weights_that_are_not_there_are_an_error(tiny_config: Path) -> None:
    cfg = replace(with_builder(tiny_config, "sound"), {"MODEL.WEIGHT": "gone.pth"})
    diagnosis = examine(cfg, say=quiet)
    [error] = severe(diagnosis)
    assert error.where == "MODEL.WEIGHT"
    assert "there is no checkpoint gone.pth" in error.what

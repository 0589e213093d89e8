import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torchvision.models import resnet18
from torchvision.models.detection import (
    fasterrcnn_resnet50_fpn_v2,
    keypointrcnn_resnet50_fpn,
)

from detengine.checkpoint.align import align
from detengine.checkpoint.readers import read_file
from detengine.choosing import configuration
from detengine.choosing.configuration import Chosen, configuration_for
from detengine.config.load import load_config
from detengine.modeling.build import build_detection_model
from detengine.parts import with_num_classes

SCRATCH = {"weights": ""}


@pytest.fixture(scope="module")
def folder(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data, COCO with masks, in a folder of its own."""
    root = tmp_path_factory.mktemp("shapes") / "shapes"
    root.mkdir()
    for name in ("train.json", "val.json"):
        shutil.copy(tiny_config.with_name(name), root)
    shutil.copytree(tiny_config.with_name("images"), root / "images")
    return root


def test_the_text_is_the_configuration(folder: Path, tmp_path: Path) -> None:
    chosen = configuration_for(folder, output_dir=tmp_path / "run", **SCRATCH)
    path = tmp_path / "recipe.yaml"
    path.write_text(chosen.text)
    assert load_config(path) == chosen.cfg
    assert chosen.cfg.CONVENTIONS == "modern"
    assert str(tmp_path / "run") == chosen.cfg.OUTPUT_DIR


def test_the_choice_is_a_function_of_the_folder(folder: Path) -> None:
    assert configuration_for(folder, **SCRATCH).text == configuration_for(folder, **SCRATCH).text


def test_masks_are_learnt_where_all_objects_have_one(folder: Path) -> None:
    cfg = configuration_for(folder, **SCRATCH).cfg
    assert cfg.MODEL.MASK_ON
    assert cfg.SOLVER.BEST_METRIC == "segm/AP"
    cfg = configuration_for(folder, overrides=["MODEL.MASK_ON", "False"], **SCRATCH).cfg
    assert not cfg.MODEL.MASK_ON
    assert cfg.SOLVER.BEST_METRIC == "bbox/AP"


def test_boxes_are_learnt_where_an_object_has_no_mask_and_that_is_said(
    folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "mixed"
    shutil.copytree(folder, root)
    content = json.loads((root / "train.json").read_text())
    content["annotations"][0]["segmentation"] = []
    (root / "train.json").write_text(json.dumps(content))
    chosen = configuration_for(root, **SCRATCH)
    assert not chosen.cfg.MODEL.MASK_ON
    assert configuration_for(root, overrides=["MODEL.MASK_ON", "True"], **SCRATCH).cfg.MODEL.MASK_ON
    number = len(content["annotations"])
    assert f"Only {number - 1} of {number} objects have a mask" in " ".join(chosen.summary)
    assert "MODEL.MASK_ON True" in chosen.text


def test_keypoints_of_a_single_class_are_learnt(shared: Path) -> None:
    chosen = configuration_for(shared / "data/keypoints", **SCRATCH)
    assert chosen.cfg.MODEL.KEYPOINT_ON
    assert chosen.cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES == 17
    assert chosen.cfg.SOLVER.BEST_METRIC == "keypoints/AP"
    assert "There are masks as well: MODEL.MASK_ON True learns them too" in chosen.text
    both = configuration_for(
        shared / "data/keypoints", overrides=["MODEL.MASK_ON", "True"], **SCRATCH
    ).cfg
    assert both.MODEL.MASK_ON
    assert both.MODEL.KEYPOINT_ON
    with torch.device("meta"):
        build_detection_model(with_num_classes(both, ["person"]))


def test_keypoints_of_unknown_sides_are_not_mirrored_and_have_tolerances(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    Image.new("RGB", (60, 40)).save(tmp_path / "b.png")
    annotation = {"category_id": 1, "bbox": [1, 1, 20, 20], "num_keypoints": 2,
                  "keypoints": [5, 5, 2, 9, 9, 2]}  # fmt: skip
    content = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "annotations": [{"id": n, "image_id": n, **annotation} for n in (1, 2)],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "all.json").write_text(json.dumps(content))
    cfg = configuration_for(tmp_path, **SCRATCH).cfg
    assert cfg.INPUT.HORIZONTAL_FLIP_PROB_TRAIN == 0
    assert cfg.TEST.KEYPOINT_SIGMAS == (0.07, 0.07)


def test_a_class_without_an_object_is_left_out(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "unseen"
    shutil.copytree(folder, root)
    for name in ("train.json", "val.json"):
        content = json.loads((root / name).read_text())
        content["categories"].insert(0, {"id": 0, "name": "all shapes"})
        (root / name).write_text(json.dumps(content))
    cfg = configuration_for(root, **SCRATCH).cfg
    assert cfg.DATASETS.CLASSES == ("disc", "bar", "wedge")


def test_overrides_win_and_stand_in_the_text(folder: Path) -> None:
    pairs = ["SOLVER.MAX_ITER", "30", "SOLVER.IMS_PER_BATCH", "2", "MODEL.DEVICE", "cpu"]
    chosen = configuration_for(folder, overrides=pairs, **SCRATCH)
    solver = chosen.cfg.SOLVER
    assert (solver.MAX_ITER, solver.IMS_PER_BATCH, solver.TEST_PERIOD) == (30, 2, 6)
    assert solver.REFERENCE_IMS_PER_BATCH == 2  # so that the given length stays what it is
    assert solver.BASE_LR == 0.001
    assert yaml.safe_load(chosen.text)["MODEL"]["DEVICE"] == "cpu"
    assert "# Given on the command line." in chosen.text


def test_a_wrong_override_is_refused_as_one_of_the_command_line(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"command line: SOLVER\.BASE_LR is -1"):
        configuration_for(folder, overrides=["SOLVER.BASE_LR", "-1"], **SCRATCH)
    with pytest.raises(ValueError, match=r"'SOLVER\.BASE_LR' has no value"):
        configuration_for(folder, overrides=["SOLVER.BASE_LR"], **SCRATCH)


def test_a_split_that_is_kept_back_is_named_with_the_way_to_score_it(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "shapes")
    shutil.copy(folder / "val.json", tmp_path / "shapes" / "test.json")
    chosen = configuration_for(tmp_path / "shapes", **SCRATCH)
    assert "DATASETS.TEST '[shapes_test]'" in " ".join(chosen.summary)
    assert chosen.cfg.DATASETS.TEST == ("shapes_val",)


def test_weights_that_cannot_be_had_are_said_with_the_cure(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DETENGINE_CACHE", "TORCH_HOME", "TORCH_MODEL_ZOO"):
        monkeypatch.setenv(name, str(tmp_path))
    chosen = configuration_for(folder, may_download=False)
    assert chosen.cfg.MODEL.WEIGHT == ""
    assert "a training would begin from torchvision://resnet18" in chosen.warning[0]
    assert "torchvision://resnet18 is not on this machine" in chosen.warning[1]
    assert "--weights FILE" in chosen.warning[2]
    in_the_file = " ".join(chosen.text.replace("\n# ", " ").split())
    assert all(line in in_the_file for line in chosen.warning)
    assert configuration_for(folder, **SCRATCH).warning == ()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State dicts as torchvision's models have them, with nothing but zeros in them."""
    place = tmp_path_factory.mktemp("published")
    nothing: dict[str, Any] = {"weights": None, "weights_backbone": None}
    with torch.device("meta"):
        models = {
            "resnet18": resnet18(),
            "box": fasterrcnn_resnet50_fpn_v2(**nothing),
            "keypoint": keypointrcnn_resnet50_fpn(**nothing),
        }
    for name, model in models.items():
        zero = torch.zeros(())
        weights = {key: zero.expand(each.shape) for key, each in model.state_dict().items()}
        torch.save({key: each.clone() for key, each in weights.items()}, place / f"{name}.pth")
    return place


def unfilled(chosen: Chosen) -> set[str]:
    """The parts of the chosen model that its weights do not fill."""
    with torch.device("meta"):
        model = build_detection_model(with_num_classes(chosen.cfg, ["a", "b", "c"]))
    found = align(model, read_file(Path(chosen.cfg.MODEL.WEIGHT))["model"])
    names = [*found.missing, *(name for name, *_ in found.wrong_shape)]
    return {".".join(name.split(".")[:2]) for name in names}


def test_a_published_detector_fills_all_of_the_model_but_its_classes(
    folder: Path, published: Path
) -> None:
    path = str(published / "box.pth")
    chosen = configuration_for(folder, weights=path, overrides=["MODEL.MASK_ON", "False"])
    assert chosen.cfg.MODEL.BACKBONE.CONV_BODY == "R-50-FPN"
    assert unfilled(chosen) == {"roi_heads.box_predictor"}


def test_published_keypoints_fill_all_of_the_model(published: Path, shared: Path) -> None:
    path = str(published / "keypoint.pth")
    chosen = configuration_for(shared / "data/keypoints", weights=path)
    assert unfilled(chosen) == {"roi_heads.box_predictor"}


def test_a_trunk_fills_the_body_of_a_model_of_its_depth(folder: Path, published: Path) -> None:
    chosen = configuration_for(folder, weights=str(published / "resnet18.pth"))
    assert chosen.cfg.MODEL.BACKBONE.CONV_BODY == "R-18-FPN"
    assert "backbone.body" not in unfilled(chosen)


def test_caffe2s_trunk_has_its_own_images_and_strides(folder: Path, shared: Path) -> None:
    cfg = configuration_for(folder, weights=str(shared / "weights/R-50.pkl")).cfg
    assert cfg.MODEL.BACKBONE.CONV_BODY == "R-50-FPN"
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1
    assert cfg.INPUT.TO_BGR255


def test_weights_of_another_network_are_refused(folder: Path, tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"these are of no ResNet of 18, 34, 50, 101 or 152"):
        configuration_for(folder, weights=str(tmp_path / "x.pth"))
    with pytest.raises(FileNotFoundError, match=r"--weights .*y\.pth: there is no such file"):
        configuration_for(folder, weights=str(tmp_path / "y.pth"))


def test_no_code_is_run_because_weights_name_it(folder: Path, tmp_path: Path) -> None:
    config = "MODEL:\n  BUILDER: os:system\n"
    entries = {"format": 1, "model": {"weight": torch.zeros(1)}, "config": config}
    torch.save(entries, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"MODEL\.BUILDER: os:system.*give it by -c"):
        configuration_for(folder, weights=str(tmp_path / "x.pth"))


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("bbox", "torchvision://fasterrcnn_resnet50_fpn_v2"),
        ("segm", "torchvision://maskrcnn_resnet50_fpn_v2"),
    ],
)
def test_a_gpu_trains_a_large_model_from_a_published_detector(
    folder: Path, published: Path, monkeypatch: pytest.MonkeyPatch, task: str, name: str
) -> None:
    asked_for: list[str] = []

    def start(usual: str, *, may_download: bool) -> tuple[Any, str]:
        asked_for.append(usual)
        return configuration.named_start(str(published / "box.pth")), ""

    monkeypatch.setattr(configuration, "default_start", start)
    monkeypatch.setattr(configuration, "resolve_device", lambda setting: torch.device("cuda"))
    overrides = ["MODEL.MASK_ON", str(task == "segm")]
    cfg = configuration_for(folder, overrides=overrides).cfg
    assert asked_for == [name]
    assert (cfg.SOLVER.OPTIMIZER, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR) == ("sgd", 8, 0.005)
    assert cfg.SOLVER.MAX_ITER == 500
    assert cfg.SOLVER.STEPS == (350, 450)
    assert cfg.INPUT.MIN_SIZE_TEST <= 800


@pytest.mark.parametrize("ranks", ["1", "2", "3"])
def test_several_processes_share_a_batch_that_they_divide(
    folder: Path, monkeypatch: pytest.MonkeyPatch, ranks: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", ranks)
    cfg = configuration_for(folder, **SCRATCH).cfg
    assert cfg.SOLVER.IMS_PER_BATCH % int(ranks) == 0


def test_names_of_classes_end_no_comment(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "names"
    shutil.copytree(folder, root)
    for name in ("train.json", "val.json"):
        content = json.loads((root / name).read_text())
        content["categories"][0]["name"] = "x # SEED: 7\u202e# <img src=x>"
        (root / name).write_text(json.dumps(content))
    assert configuration_for(root, **SCRATCH).cfg.SEED == 0


def test_data_sets_that_are_given_are_those_that_are_counted(folder: Path) -> None:
    pairs = ["DATASETS.DEFINE.shapes_train.PART", "[0.0, 0.5]", "DATASETS.TEST", "[]",
             "SOLVER.BEST_METRIC", "None"]  # fmt: skip
    chosen = configuration_for(folder, overrides=pairs, **SCRATCH)
    assert "4 images to train on" in chosen.summary[0]
    assert "0 to score on" in chosen.summary[0]


def test_objects_that_become_too_small_are_said(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "specks"
    shutil.copytree(folder, root)
    for name in ("train.json", "val.json"):
        content = json.loads((root / name).read_text())
        for each in content["annotations"]:
            each["bbox"][2:] = [1, 1]
        (root / name).write_text(json.dumps(content))
    assert "too few to be found well" in configuration_for(root, **SCRATCH).summary[-1]
    assert "too few" not in configuration_for(folder, **SCRATCH).text

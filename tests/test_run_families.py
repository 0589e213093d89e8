"""Runs of every kind of model: what each is scored by, in either convention."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detengine.config.load import load_config, replace
from detengine.config.schema import Config
from detengine.evaluation.build import iou_types_of
from detengine.evaluation.predictions_file import load_predictions
from detengine.loading import load
from detengine.rescoring import rescore
from detengine.run import evaluate, train
from detengine.structures.rle import decode_counts

RETINANET = {
    "MODEL.MASK_ON": False,
    "MODEL.BACKBONE.CONV_BODY": "R-50-FPN-RETINANET",
    "MODEL.RETINANET_ON": True,
    "MODEL.RPN_ONLY": True,  # as in the predecessor's files
    "MODEL.RETINANET.NUM_CLASSES": 4,
    "MODEL.RETINANET.NUM_CONVS": 1,
}

VIEWS = {
    "TEST.BBOX_AUG.ENABLED": True,
    "TEST.BBOX_AUG.H_FLIP": True,
    "TEST.BBOX_AUG.SCALES": (64,),
}


@pytest.fixture
def make_config(tiny_config: Path, tmp_path: Path) -> Callable[..., Config]:
    """(changes by dotted key) -> the tiny configuration, two iterations long."""

    def make(changes: dict[str, Any]) -> Config:
        own = {"OUTPUT_DIR": str(tmp_path / "run"), "SOLVER.MAX_ITER": 2}
        return replace(load_config(tiny_config), own | changes)

    return make


def test_a_model_of_proposals_is_scored_by_its_recall(
    make_config: Callable[..., Config],
) -> None:
    changes = {"MODEL.MASK_ON": False, "MODEL.RPN_ONLY": True}
    cfg = make_config(changes)
    result = train(cfg)
    assert result.finished
    assert list(result.results["shapes_val"].metrics) == ["box_proposal"]
    scored_again = evaluate(
        make_config({**changes, "OUTPUT_DIR": cfg.OUTPUT_DIR + "-again"}),
        result.output_folder / "model_final.pth",
    )
    assert scored_again == result.results
    changes["TEST.EXPECTED_RESULTS"] = [("bbox", "AP", (0.3, 0.1))]
    with pytest.raises(ValueError, match=r"scored by the tasks box_proposal; correct it"):
        evaluate(make_config(changes), result.output_folder / "model_final.pth")


def test_retinanet_is_scored_though_its_files_say_rpn_only(
    make_config: Callable[..., Config],
) -> None:
    result = train(make_config(RETINANET))
    assert list(result.results["shapes_val"].metrics) == ["bbox"]


def test_the_classes_of_retinanet_are_held_against_the_data(
    make_config: Callable[..., Config],
) -> None:
    cfg = make_config(RETINANET | {"MODEL.RETINANET.NUM_CLASSES": 81})
    with pytest.raises(
        ValueError, match=r"RETINANET\.NUM_CLASSES is 81, .* needs 4\. Leave the key out"
    ):
        train(cfg)


def test_retinanet_is_scored_in_several_views(make_config: Callable[..., Config]) -> None:
    cfg = make_config(RETINANET | VIEWS | {"MODEL.RETINANET.INFERENCE_TH": 0.0})
    result = train(cfg)
    assert list(result.results["shapes_val"].metrics) == ["bbox"]
    for _, each in load_predictions(result.output_folder / "inference/shapes_val"):
        assert 20 < len(each) <= cfg.TEST.DETECTIONS_PER_IMG
        assert (each.boxes_xyxy[:, 2:] <= torch.tensor(each.size[::-1]) + 0.01).all()


OF_THE_USER = """
import torch

class WholePicture(torch.nn.Module):
    # surer of larger pictures; left keypoints at the left edge, right ones at the right
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, images, targets=None):
        if self.training:
            return {"loss": self.weight.square().sum()}
        return [self.found(*image.shape[1:]) for image in images]

    def found(self, height, width):
        x = [(width - 1) / 2] + [0.0, width - 1] * 8
        return {
            "boxes": torch.tensor([[0.0, 0, width, height]]),
            "scores": torch.tensor([width / 1000]),
            "labels": torch.tensor([1]),
            "masks": (torch.arange(width) < width // 2).float().expand(1, 1, height, width),
            "keypoints": torch.tensor([[[each, 0, 1] for each in x]]),
            "keypoints_scores": torch.ones(1, 17),
        }

def build(cfg):
    return WholePicture()
"""


@pytest.fixture
def make_users_config(
    write_tiny_run: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], Config]:
    """(number of keypoints) -> a BUILDER's model on data with so many that have no names."""

    def make(keypoints: int) -> Config:
        path = write_tiny_run(tmp_path)
        for name in ("train", "val"):
            _add_keypoints(tmp_path / f"{name}.json", keypoints)
        (tmp_path / "of_the_user.py").write_text(OF_THE_USER)
        monkeypatch.syspath_prepend(tmp_path)
        own = {"MODEL.BUILDER": "of_the_user:build", "MODEL.KEYPOINT_ON": True}
        return replace(load_config(path), own | VIEWS | {"SOLVER.MAX_ITER": 1})

    return make


def test_a_builders_model_is_scored_in_several_views(
    make_users_config: Callable[[int], Config],
) -> None:
    result = train(make_users_config(17))
    assert list(result.results["shapes_val"].metrics) == ["bbox", "segm", "keypoints"]
    for _, each in load_predictions(result.output_folder / "inference/shapes_val"):
        height, width = each.size
        assert each.boxes_xyxy.tolist() == [pytest.approx([0, 0, width, height])]
        assert each.rles is not None
        area = decode_counts(each.rles[0]["counts"])[1::2].sum()
        assert area == pytest.approx(width * height / 2, rel=0.1)
        assert each.keypoints is not None
        x = [(width - 1) / 2] + [0.0, width - 1] * 8
        assert each.keypoints[0, :, 0].tolist() == pytest.approx(x, abs=1)


def test_keypoints_whose_sides_are_not_known_are_not_mirrored_but_refused_before_the_training(
    make_users_config: Callable[[int], Config],
) -> None:
    cfg = make_users_config(5)
    with pytest.raises(
        ValueError, match=r"BBOX_AUG mirrors views, .* data set's keypoints .*left_"
    ):
        train(cfg)
    assert not (Path(cfg.OUTPUT_DIR) / "last_checkpoint").exists()


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (("segm", "AP"), r"'AP' of 'segm', but this model is scored by the tasks bbox; .*MASK_ON"),
        (("bbx", "AP"), "'AP' of 'bbx', but this model is scored by the tasks bbox"),
        (("bbox", "AP5"), r"'AP5' of 'bbox', but .* by the metrics AP, AP50, .*; correct it"),
    ],
)
def test_expected_results_of_what_is_not_measured_are_refused_before_the_training(
    make_config: Callable[..., Config], expected: tuple[str, str], message: str
) -> None:
    changes = {"MODEL.MASK_ON": False, "TEST.EXPECTED_RESULTS": [(*expected, (0.3, 0.1))]}
    cfg = make_config(changes)
    with pytest.raises(ValueError, match=message):
        train(cfg)
    assert not (Path(cfg.OUTPUT_DIR) / "last_checkpoint").exists()


@pytest.mark.parametrize("conventions", ["modern", "maskrcnn_benchmark"])
def test_keypoints_are_trained_scored_and_predicted(
    write_tiny_run: Callable[[Path], Path], tmp_path: Path, conventions: str
) -> None:
    path = write_tiny_run(tmp_path)
    for name in ("train", "val"):
        _add_keypoints(tmp_path / f"{name}.json")
    changes = {
        "SOLVER.MAX_ITER": 2,
        "MODEL.KEYPOINT_ON": True,
        "MODEL.ROI_KEYPOINT_HEAD.POOLER_SCALES": (0.25, 0.125),
        "MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS": (16,),
        "MODEL.ROI_HEADS.SCORE_THRESH": 0.0,
        "MODEL.ARITHMETIC.INCLUSIVE_PIXELS": conventions != "modern",
        "INPUT.RESIZE": "torch" if conventions == "modern" else "pillow",
    }
    result = train(replace(load_config(path), changes))
    assert list(result.results["shapes_val"].metrics) == ["bbox", "segm", "keypoints"]
    folder = result.output_folder
    for _, each in load_predictions(folder / "inference/shapes_val"):
        assert each.keypoints is not None
        assert each.keypoints.shape == (len(each), 17, 3)
    assert load(folder, device="cpu").model is not None


def _add_keypoints(path: Path, count: int = 17) -> None:
    """So many on the diagonal of each box."""
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        steps = [(k + 0.5) / count for k in range(count)]
        annotation["keypoints"] = [
            each for step in steps for each in (x + step * width, y + step * height, 2)
        ]
        annotation["num_keypoints"] = count
    path.write_text(json.dumps(content))


def test_other_than_seventeen_keypoints_are_not_scored() -> None:
    options = ["CONVENTIONS", "modern", "MODEL.KEYPOINT_ON", "True", "MODEL.MASK_ON", "True"]
    assert iou_types_of(load_config(None, options)) == ("bbox", "segm", "keypoints")
    options += ["MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", "5"]
    assert iou_types_of(load_config(None, options)) == ("bbox", "segm")


def test_boxes_of_an_inclusive_model_are_stored_up_to_their_last_pixels_far_edge(
    make_config: Callable[..., Config],
) -> None:
    """The last pixel of an image is width - 1: so far reaches a box that is cut off there."""
    changes = {"MODEL.ROI_HEADS.SCORE_THRESH": 0.0, "MODEL.ARITHMETIC.INCLUSIVE_PIXELS": True}
    result = train(make_config(changes))
    predictions = dict(load_predictions(result.output_folder / "inference/shapes_val"))
    for each in predictions.values():
        height, width = each.size
        most = each.boxes_xyxy[:, 2:].amax(dim=0)
        assert ((each.boxes_xyxy[:, 2:] - each.boxes_xyxy[:, :2]) >= 1).all()
        # the network sees it larger, so that its last pixel is less than one of the stored image
        assert most[0] <= width + 1
        assert most[1] <= height + 1


def _as_lvis(file: Path) -> Path:
    """The same data in LVIS's format: of each image's other classes the first is known absent."""
    content = json.loads(file.read_text())
    ids = [each["id"] for each in content["categories"]]
    for image in content["images"]:
        here = {
            each["category_id"]
            for each in content["annotations"]
            if each["image_id"] == image["id"]
        }
        image["neg_category_ids"] = [id_ for id_ in ids if id_ not in here][:1]
        image["not_exhaustive_category_ids"] = []
        image["coco_url"] = f"http://images/images/{image.pop('file_name')}"
    for category, letter in zip(content["categories"], "rcf", strict=True):
        category["frequency"] = letter
    path = file.with_name(f"lvis_{file.name}")
    path.write_text(json.dumps(content))
    return path


def test_lvis_is_trained_on_with_its_rare_images_repeated_and_scored_by_its_own_metric(
    write_tiny_run: Callable[[Path], Path], tmp_path: Path
) -> None:
    cfg = load_config(write_tiny_run(tmp_path))
    define = {
        f"lvis_{split}": {
            "FORMAT": "lvis",
            "IMAGES": str(tmp_path / "images"),
            "ANNOTATIONS": str(_as_lvis(tmp_path / f"{split}.json")),
        }
        for split in ("train", "val")
    }
    changes = {
        "DATASETS.DEFINE": define,
        "DATASETS.TRAIN": ("lvis_train",),
        "DATASETS.TEST": ("lvis_val",),
        "DATALOADER.REPEAT_THRESHOLD": 0.9,
        "SOLVER.MAX_ITER": 6,
        "TEST.EXPECTED_RESULTS": [("lvis_bbox", "APr", (0.0, 1.0))],
        "OUTPUT_DIR": str(tmp_path / "run"),
    }
    result = train(replace(cfg, changes))
    assert list(result.results["lvis_val"].metrics) == ["lvis_bbox", "lvis_segm"]
    log = (tmp_path / "run/log.txt").read_text()
    assert "DATALOADER.REPEAT_THRESHOLD 0.9: 6 of 7 images are repeated" in log
    assert "PASS: lvis_bbox > APr" in log
    written = json.loads((tmp_path / "run/results.json").read_text())
    assert written["lvis_val"] == result.results["lvis_val"].to_json()
    per_class = json.loads((tmp_path / "run/per_class.json").read_text())
    assert per_class["lvis_val"] == result.results["lvis_val"].per_class
    [again] = rescore(
        load_config(None, ["CONVENTIONS", "modern"]),
        tmp_path / "run/inference/lvis_val",
        annotations=tmp_path / "lvis_val.json",
        iou_types=("bbox", "segm"),
    ).values()
    assert again == result.results["lvis_val"]

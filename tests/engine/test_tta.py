"""Several views of an image: where each one's boxes land, and which models can merge them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detengine.config.load import load_config, replace
from detengine.config.schema import Config
from detengine.data.transforms import make_resize
from detengine.engine import tta
from detengine.engine.build import build_test_time_augmentation, make_views
from detengine.engine.predictor import Predictor
from detengine.evaluation.predictions_file import load_predictions
from detengine.modeling.build import build_detection_model
from detengine.modeling.roi_heads import ClassBoxes
from detengine.run import train

RECIPE = (
    Path(__file__).parents[2]
    / "../shared/golden/configs/test_time_aug/e2e_mask_rcnn_R_50_FPN_1x.yaml"
)
needs_recipe = pytest.mark.skipif(not RECIPE.exists(), reason="../shared/golden is absent")
VIEWS = {
    "TEST.BBOX_AUG.ENABLED": True,
    "TEST.BBOX_AUG.H_FLIP": True,
    "TEST.BBOX_AUG.SCALES": (48, 80),
    "TEST.BBOX_AUG.SCALE_H_FLIP": True,
}
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHT": "",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": 16,
    "MODEL.RPN.PRE_NMS_TOP_N_TEST": 100,
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST": 20,
    "MODEL.ROI_BOX_HEAD.NUM_CLASSES": 4,
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 32,
    "MODEL.ROI_MASK_HEAD.CONV_LAYERS": (16,),
    # a frozen batch norm that was never trained lets its input grow, until scores are 0 or 1
    "INPUT.PIXEL_STD": (100.0, 100.0, 100.0),
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.BASE_LR": 1e-4,
}
"""The predecessor's Mask R-CNN, of a size for tests."""


class BrightBox(nn.Module):
    """Finds the bright pixels of an image: their box, surer of it the larger the image is."""

    def __init__(self, *, inclusive_pixels: bool = False) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.beyond = 0 if inclusive_pixels else 1

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        return self.finish(*self.predict_class_boxes(images))

    def predict_class_boxes(self, images: Sequence[Tensor]) -> tuple[list[int], list[ClassBoxes]]:
        return [image.shape[2] for image in images], [self._found(image) for image in images]

    def _found(self, image: Tensor) -> ClassBoxes:
        bright = image[0] > 127
        rows, columns = bright.any(1).nonzero()[:, 0], bright.any(0).nonzero()[:, 0]
        box = [columns[0], rows[0], columns[-1] + self.beyond, rows[-1] + self.beyond]
        score = image.shape[2] / 1000
        boxes = torch.tensor(box, dtype=torch.float32).expand(1, 2, 4)
        return ClassBoxes(boxes, torch.tensor([[1 - score, score]]))

    def finish(
        self, features: list[int], class_boxes: Sequence[ClassBoxes]
    ) -> list[dict[str, Tensor]]:
        return [
            {
                "boxes": each.boxes[:, 1],
                "scores": each.scores[:, 1],
                "labels": torch.ones(len(each.scores), dtype=torch.int64),
                "keypoints": torch.tensor([[[float(width), 4.0, 1.0]]] * len(each.scores)),
            }
            for width, each in zip(features, class_boxes, strict=True)
        ]


def _image(height: int = 40, width: int = 60) -> Tensor:
    """A bright rectangle from (8, 10) up to (24, 36)."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, 10:36, 8:24] = 255
    return image


def _view(min_size: int, *, mirrored: bool = False) -> tta.View:
    return tta.View(make_resize("torch", (min_size,), 1000), mirrored)


def _augmented(model: nn.Module, *views: tta.View, **options: Any) -> nn.Module:
    return tta.TestTimeAugmentation(model, views, **options).eval()


def test_the_image_itself_as_the_only_view_gives_what_the_model_gives() -> None:
    options = ["CONVENTIONS", "modern", "INPUT.MIN_SIZE_TEST", "70"]
    pictures = [_image(*size).permute(1, 2, 0).numpy() for size in ((40, 60), (55, 37))]
    plain = Predictor(load_config(None, options), BrightBox())(pictures)
    views = Predictor(load_config(None, [*options, "TEST.BBOX_AUG.ENABLED", "True"]), BrightBox())(
        pictures
    )
    for one, other in zip(plain, views, strict=True):
        assert torch.equal(one.boxes_xyxy, other.boxes_xyxy)
        assert torch.equal(one.scores, other.scores)
        assert one.keypoints is not None
        assert other.keypoints is not None
        assert torch.equal(one.keypoints, other.keypoints)
        assert one.size == other.size


@pytest.mark.parametrize("inclusive_pixels", [False, True])
def test_a_mirrored_view_finds_the_same_box(inclusive_pixels: bool) -> None:
    model = BrightBox(inclusive_pixels=inclusive_pixels)
    views = (_view(40), _view(40, mirrored=True))
    (found,) = _augmented(model, *views, inclusive_pixels=inclusive_pixels)([_image()])
    expected = [8, 10, 23, 35] if inclusive_pixels else [8, 10, 24, 36]
    assert found["boxes"].tolist() == [expected, expected]


def test_boxes_of_all_sizes_meet_in_the_pixels_of_the_stored_image() -> None:
    views = [_view(size, mirrored=mirrored) for size in (80, 120, 400) for mirrored in (0, 1)]
    images = [_image(), _image(50, 50), _image(90, 38)]
    found = _augmented(BrightBox(), *views)(images)
    for each in found:
        assert each["boxes"].shape == (6, 4)
        assert (each["boxes"] - torch.tensor([8.0, 10.0, 24.0, 36.0])).abs().max() <= 0.5
    assert found[0]["scores"].tolist() == pytest.approx([0.12, 0.12, 0.18, 0.18, 0.6, 0.6])


def test_masks_and_keypoints_are_those_of_the_first_view() -> None:
    (found,) = _augmented(BrightBox(), _view(80), _view(400))([_image()])
    assert (
        found["keypoints"][:, 0].tolist() == [[60.0, 2.0, 1.0]] * 2
    )  # its width, in stored pixels


@needs_recipe
def test_the_views_of_the_predecessors_file_are_all_there() -> None:
    views = make_views(load_config(RECIPE))
    assert len(views) == 2 + 2 * 8
    assert [view.mirrored for view in views] == [False, True] * 9
    widths = [view.of(torch.zeros(3, 48, 64, dtype=torch.uint8)).shape[2] for view in views]
    assert widths[::2] == widths[1::2] == [1066, 533, 666, 800, 933, 1200, 1333, 1466, 1600]
    long = views[-1].of(torch.zeros(3, 10, 40, dtype=torch.uint8))
    assert long.shape[1:] == (500, 2000)


def test_without_it_the_model_itself_is_used() -> None:
    model = BrightBox()
    assert build_test_time_augmentation(load_config(None), model) is model


def test_training_through_the_views_is_refused() -> None:
    augmented = tta.TestTimeAugmentation(BrightBox(), [_view(40)])
    with pytest.raises(ValueError, match="does not train"):
        augmented([_image()])


def test_the_weights_are_the_models_own() -> None:
    model = BrightBox()
    assert list(_augmented(model, _view(40)).parameters()) == list(model.parameters())


def test_pictures_of_any_layout_are_seen_in_all_views() -> None:
    options = ["TEST.BBOX_AUG.ENABLED", "True", "TEST.BBOX_AUG.H_FLIP", "True",
               "TEST.BBOX_AUG.SCALES", "(50,)", "INPUT.MIN_SIZE_TEST", "40"]  # fmt: skip
    picture = np.ascontiguousarray(_image().permute(1, 2, 0).numpy())[:, ::-1]
    (found,) = Predictor(load_config(None, options), BrightBox(inclusive_pixels=True))([picture])
    assert found.boxes_xyxy[:2].tolist() == [[36, 10, 51, 35]] * 2
    assert len(found) == 3


def test_a_model_of_proposals_only_is_refused() -> None:
    cfg = load_config(None, ["TEST.BBOX_AUG.ENABLED", "True", "MODEL.RPN_ONLY", "True"])
    with pytest.raises(ValueError, match=r"BBOX_AUG\.ENABLED is True, but MODEL\.RPN_ONLY too"):
        build_test_time_augmentation(cfg, nn.Module())


# Mask R-CNN


def _model(cfg: Config) -> nn.Module:
    """Its weights spread out, so that scores and boxes differ."""
    torch.manual_seed(0)
    model = build_detection_model(cfg)
    predictor: Any = model.roi_heads.box_predictor  # type: ignore[union-attr]
    for layer in (predictor.cls_score, predictor.bbox_pred):
        nn.init.normal_(layer.weight, std=0.3)
    return model.eval()


@pytest.fixture(params=["maskrcnn_benchmark", "modern"])
def cfg(request: pytest.FixtureRequest, tiny_config: Path) -> Config:
    """A small Mask R-CNN in either convention, of three classes."""
    if request.param == "modern":
        changes = {"MODEL.ROI_BOX_HEAD.NUM_CLASSES": 4, "INPUT.MIN_SIZE_TEST": 64}
        return replace(load_config(tiny_config), changes)
    if not RECIPE.exists():
        pytest.skip("../shared/golden is absent")
    return replace(load_config(RECIPE), SMALL | {"TEST.BBOX_AUG.ENABLED": False})


def _pictures() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), np.uint8) for size in ((70, 90), (101, 66))]


def test_one_view_of_mask_rcnn_is_mask_rcnn(cfg: Config) -> None:
    model, only = _model(cfg), {**VIEWS, "TEST.BBOX_AUG.H_FLIP": False, "TEST.BBOX_AUG.SCALES": ()}
    plain = Predictor(cfg, model)(_pictures())
    views = Predictor(replace(cfg, only), model)(_pictures())
    for one, other in zip(plain, views, strict=True):
        assert len(one) > 10
        for field in ("boxes_xyxy", "scores", "labels", "mask_probs"):
            assert torch.equal(getattr(one, field), getattr(other, field))


def test_a_mirrored_picture_has_the_mirrored_detections(cfg: Config) -> None:
    """Its views are the picture's own in another order: what is found differs by nothing else."""
    predictor = Predictor(replace(cfg, {**VIEWS, "TEST.BBOX_AUG.SCALES": ()}), _model(cfg))
    # a size at which nothing is resized, for Pillow's own rounding is not symmetric
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    (one,) = predictor([picture])
    (other,) = predictor([picture[:, ::-1]])
    last = 95 if cfg.MODEL.ARITHMETIC.INCLUSIVE_PIXELS else 96
    x1, y1, x2, y2 = other.boxes_xyxy.unbind(1)
    mirrored = torch.stack([last - x2, y1, last - x1, y2], dim=1)
    assert len(one) == len(other) > 10
    assert torch.allclose(one.scores, other.scores, rtol=0, atol=1e-5)
    distance = (one.boxes_xyxy[:, None] - mirrored[None]).abs().amax(dim=2)
    assert one.labels is not None
    assert other.labels is not None
    distance[one.labels[:, None] != other.labels[None]] = torch.inf
    assert distance.amin(dim=1).max() < 1e-3


@needs_recipe
def test_the_predecessors_recipe_trains_and_scores_with_masks(
    tiny_config: Path, tmp_path: Path
) -> None:
    data = load_config(tiny_config).DATASETS.model_dump()
    changes = {f"DATASETS.{key}": value for key, value in data.items()}
    sizes = {"TEST.BBOX_AUG.SCALES": (48, 80), "OUTPUT_DIR": str(tmp_path)}
    workers = {"DATALOADER.NUM_WORKERS": 0, "MODEL.ROI_HEADS.SCORE_THRESH": 0.0}
    cfg = replace(load_config(RECIPE), {**SMALL, **changes, **sizes, **workers})
    assert len(make_views(cfg)) == 6
    result = train(cfg)
    assert set(result.results["shapes_val"].metrics) == {"bbox", "segm"}
    predictions = dict(load_predictions(tmp_path / "inference/shapes_val"))
    assert len(predictions) == 4
    for each in predictions.values():
        assert each.rles is not None
        assert len(each.rles) == len(each) > 20  # more than one view has proposals
        assert (each.boxes_xyxy >= 0).all()
        height, width = each.size
        assert (each.boxes_xyxy[:, 2::2] <= width + 0.5).all()
        assert (each.boxes_xyxy[:, 3::2] <= height + 0.5).all()

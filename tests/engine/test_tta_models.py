"""Several views seen by RetinaNet and by torchvision's models: what holds of any of them."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection import KeypointRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from detengine.config.load import load_config, replace
from detengine.config.schema import Config
from detengine.data.keypoints import COCO_PERSON_MIRROR
from detengine.engine.predictor import Predictor
from detengine.modeling.adapters import adapt
from detengine.modeling.boxes import BoxArithmetic
from detengine.modeling.build import build_detection_model
from detengine.modeling.build_arithmetic import make_arithmetic
from detengine.structures.prediction import Prediction

ONE = {"TEST.BBOX_AUG.ENABLED": True}
FLIP = ONE | {"TEST.BBOX_AUG.H_FLIP": True}
MANY = FLIP | {"TEST.BBOX_AUG.SCALES": (48, 80), "TEST.BBOX_AUG.SCALE_H_FLIP": True}
RETINANET = {
    "MODEL.DEVICE": "cpu",
    "MODEL.RETINANET_ON": True,
    "MODEL.RPN_ONLY": True,
    "MODEL.BACKBONE.CONV_BODY": "R-50-FPN-RETINANET",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": 16,
    "MODEL.RETINANET.NUM_CLASSES": 4,
    "MODEL.RETINANET.NUM_CONVS": 1,
    "MODEL.RETINANET.INFERENCE_TH": 0.3,
}
FIELDS = ("boxes_xyxy", "scores", "labels", "mask_probs", "keypoints", "keypoint_scores")


class Case(NamedTuple):
    """A model, its configuration without views, and at which IoU its detections suppress."""

    model: nn.Module
    cfg: Config
    nms: float

    def predict(self, picture: NDArray[np.uint8], views: dict[str, Any]) -> Prediction:
        (found,) = Predictor(replace(self.cfg, views), self.model)([picture])
        return found


class TinyBackbone(nn.Module):
    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 9, stride=8, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layer(images).relu()
        return features


def _torchvisions(kind: type[MaskRCNN] | type[KeypointRCNN], **heads: Any) -> nn.Module:
    model = kind(
        TinyBackbone(),
        min_size=64,
        rpn_anchor_generator=AnchorGenerator(((16, 32),), ((0.5, 1.0, 2.0),)),
        rpn_post_nms_top_n_test=40,
        box_roi_pool=MultiScaleRoIAlign(["0"], 3, 1),
        box_head=nn.Sequential(nn.Flatten(), nn.Linear(8 * 9, 16), nn.ReLU()),
        box_predictor=FastRCNNPredictor(16, 4),
        box_score_thresh=0.2,
        **heads,
    )
    for layer in (model.roi_heads.box_predictor.cls_score, model.rpn.head.cls_logits):
        nn.init.normal_(layer.weight, std=1.0)  # scores spread out
    return adapt(model)


def _maskrcnn() -> nn.Module:
    return _torchvisions(
        MaskRCNN,
        mask_roi_pool=MultiScaleRoIAlign(["0"], 14, 1),
        mask_head=MaskRCNNHeads(8, (8,), 1),
        mask_predictor=MaskRCNNPredictor(8, 8, 4),
    )


def _keypointrcnn() -> nn.Module:
    return _torchvisions(
        KeypointRCNN,
        keypoint_roi_pool=MultiScaleRoIAlign(["0"], 14, 1),
        keypoint_head=KeypointRCNNHeads(8, (8,)),
        keypoint_predictor=KeypointRCNNPredictor(8, 17),
    )


def _retinanet(cfg: Config) -> nn.Module:
    model: Any = build_detection_model(cfg)
    for branch, last in (
        (model.head.classification_head, "cls_logits"),
        (model.head.regression_head, "bbox_reg"),
    ):
        for layer in (branch.conv[0][0], getattr(branch, last)):
            nn.init.xavier_normal_(layer.weight)  # scores and boxes spread out
            nn.init.zeros_(layer.bias)
    return model  # type: ignore[no-any-return]


@pytest.fixture(params=["retinanet", "predecessors_retinanet", "maskrcnn", "keypointrcnn"])
def case(request: pytest.FixtureRequest) -> Case:
    conventions = "maskrcnn_benchmark" if "predecessors" in request.param else "modern"
    plain = replace(load_config(None, ["CONVENTIONS", conventions]), {"INPUT.MIN_SIZE_TEST": 64})
    torch.manual_seed(0)
    if "retinanet" in request.param:
        # a frozen batch norm that was never trained lets its input grow, until scores are 0 or 1
        spread = 1.0 if conventions == "modern" else 40.0
        cfg = replace(plain, RETINANET | {"INPUT.PIXEL_STD": (spread, spread, spread)})
        return Case(_retinanet(cfg).eval(), cfg, cfg.MODEL.RETINANET.NMS_TH)
    model = _maskrcnn() if request.param == "maskrcnn" else _keypointrcnn()
    return Case(model.eval(), plain, plain.MODEL.ROI_HEADS.NMS)


def _picture() -> NDArray[np.uint8]:
    """Of a size at which nothing is resized, for which rounding is not symmetric."""
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


def _fields(found: Prediction) -> dict[str, Tensor]:
    fields = {name: getattr(found, name) for name in FIELDS}
    return {name: values for name, values in fields.items() if values is not None}


def test_the_image_itself_as_the_only_view_gives_what_the_model_gives(case: Case) -> None:
    plain, views = case.predict(_picture(), {}), case.predict(_picture(), ONE)
    assert len(plain) > 5
    assert _fields(plain).keys() == _fields(views).keys()
    for name, values in _fields(plain).items():
        assert torch.equal(values, getattr(views, name)), name


def test_a_mirrored_picture_has_the_mirrored_detections(case: Case) -> None:
    """Its views are the picture's own in another order: what is found differs by nothing else."""
    one, other = (_fields(case.predict(each, FLIP)) for each in (_picture(), _picture()[:, ::-1]))
    assert len(one["scores"]) == len(other["scores"]) > 5
    assert one.keys() == other.keys()
    mirrored = _mirrored(other, inclusive_pixels=case.cfg.MODEL.ARITHMETIC.INCLUSIVE_PIXELS)
    order, other_order = _by_score(one), _by_score(mirrored)
    for name, values in one.items():
        torch.testing.assert_close(values[order], mirrored[name][other_order], rtol=0, atol=1e-3)


def _mirrored(found: dict[str, Tensor], *, inclusive_pixels: bool) -> dict[str, Tensor]:
    """Written out once more, and for a width of 96."""
    x1, y1, x2, y2 = found["boxes_xyxy"].unbind(1)
    last = 95 if inclusive_pixels else 96
    mirrored = {**found, "boxes_xyxy": torch.stack([last - x2, y1, last - x1, y2], dim=1)}
    if "mask_probs" in found:
        mirrored["mask_probs"] = found["mask_probs"].flip(2)
    if "keypoints" in found:
        x, y, visibility = found["keypoints"][:, list(COCO_PERSON_MIRROR)].unbind(2)
        mirrored["keypoints"] = torch.stack([95 - x, y, visibility], dim=2)
        mirrored["keypoint_scores"] = found["keypoint_scores"][:, list(COCO_PERSON_MIRROR)]
    return mirrored


def _by_score(found: dict[str, Tensor]) -> Tensor:
    return found["scores"].argsort(stable=True)


def test_what_several_views_find_alike_is_given_once_and_the_best_of_it(case: Case) -> None:
    plain, views = case.predict(_picture(), {}), case.predict(_picture(), MANY)
    arithmetic: BoxArithmetic = make_arithmetic(case.cfg)
    assert views.labels is not None
    overlap = arithmetic.iou(views.boxes_xyxy, views.boxes_xyxy).fill_diagonal_(0)
    overlap[views.labels[:, None] != views.labels[None]] = 0
    assert overlap.max() <= case.nms + 1e-4  # it was computed in another frame
    assert views.scores.max() >= plain.scores.max()
    assert (views.scores.diff() <= 0).all()
    assert _fields(plain).keys() == _fields(views).keys()
    assert {len(each) for each in _fields(views).values()} == {len(views)}

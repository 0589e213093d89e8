"""Every family of detectors under CONVENTIONS: modern, as narrow as it can be built."""

import copy
import json
import math
from collections.abc import Sequence
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from detengine.config.load import load_config
from detengine.config.schema import Config
from detengine.modeling.build import build_detection_model
from detengine.solver.build import make_optimizer
from detengine.structures.masks import RunLengthMasks
from detengine.structures.target import Target

Overrides = dict[str, str]

SMALL = {
    "DATALOADER.SIZE_DIVISIBILITY": "32",
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": "0",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": "8",
    "MODEL.RESNETS.RES2_OUT_CHANNELS": "32",
    "MODEL.RESNETS.WIDTH_PER_GROUP": "8",
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": "16",
    "MODEL.GROUP_NORM.NUM_GROUPS": "4",
    "MODEL.RPN.PRE_NMS_TOP_N_TRAIN": "100",
    "MODEL.RPN.POST_NMS_TOP_N_TRAIN": "40",
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN": "40",
    "MODEL.RPN.PRE_NMS_TOP_N_TEST": "60",
    "MODEL.RPN.POST_NMS_TOP_N_TEST": "20",
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST": "20",
    "MODEL.ROI_HEADS.SCORE_THRESH": "0.0",
    "MODEL.ROI_HEADS.DETECTIONS_PER_IMG": "10",
    "MODEL.ROI_BOX_HEAD.NUM_CLASSES": "4",
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": "24",
    "MODEL.ROI_BOX_HEAD.CONV_HEAD_DIM": "8",
    "MODEL.ROI_MASK_HEAD.CONV_LAYERS": "[8]",
    "MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS": "[8]",
    "MODEL.RETINANET.NUM_CLASSES": "4",
    "MODEL.RETINANET.NUM_CONVS": "1",
    "MODEL.RETINANET.INFERENCE_TH": "0.0",
    "TEST.DETECTIONS_PER_IMG": "10",
}
MASKS = {"MODEL.MASK_ON": "True"}
KEYPOINTS = {"MODEL.KEYPOINT_ON": "True"}
WITHOUT_PYRAMID = {
    "MODEL.RPN.USE_FPN": "False",
    "MODEL.ROI_HEADS.USE_FPN": "False",
    "MODEL.RPN.ANCHOR_STRIDE": "[16]",
    "MODEL.ROI_BOX_HEAD.POOLER_SCALES": "[0.0625]",
    "MODEL.ROI_MASK_HEAD.POOLER_SCALES": "[0.0625]",
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_SCALES": "[0.0625]",
}
_RES5 = "ResNet50Conv5ROIFeatureExtractor"
RES5 = {
    "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR": _RES5,
    "MODEL.ROI_BOX_HEAD.PREDICTOR": "FastRCNNPredictor",
    "MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR": _RES5,
}
C4 = (
    WITHOUT_PYRAMID
    | RES5
    | {
        "MODEL.BACKBONE.CONV_BODY": "R-50-C4",
        "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": "128",
        "MODEL.ROI_MASK_HEAD.RESOLUTION": "14",
    }
)
SHARED = {
    "MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR": "True",
    "MODEL.ROI_MASK_HEAD.RESOLUTION": "8",
}
C5 = WITHOUT_PYRAMID | {
    "MODEL.BACKBONE.CONV_BODY": "R-50-C5",
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": "256",
    "MODEL.RPN.ANCHOR_STRIDE": "[32]",
    "MODEL.ROI_BOX_HEAD.POOLER_SCALES": "[0.03125]",
}
RETINANET = {
    "MODEL.RETINANET_ON": "True",
    "MODEL.BACKBONE.CONV_BODY": "R-50-FPN-RETINANET",
}
FBNET = WITHOUT_PYRAMID | {
    "MODEL.BACKBONE.CONV_BODY": "FBNet",
    "MODEL.FBNET.SCALE_FACTOR": "0.25",
    "MODEL.FBNET.BN_TYPE": "gn",
    "MODEL.RPN.RPN_HEAD": "FBNet.rpn_head",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": "6",
    "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR": "FBNet.roi_head",
    "MODEL.ROI_BOX_HEAD.PREDICTOR": "FastRCNNPredictor",
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": "6",
    "MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR": "FBNet.roi_head_mask",
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION": "6",
    "MODEL.ROI_KEYPOINT_HEAD.FEATURE_EXTRACTOR": "FBNet.roi_head_keypoints",
}
BATCH_NORM = {"MODEL.FBNET.BN_TYPE": "bn"}
FBNET_KEYPOINTS = (
    FBNET
    | KEYPOINTS
    | {
        "MODEL.FBNET.ARCH": "one_head_for_all",
        "MODEL.FBNET.ARCH_DEF": json.dumps(
            {
                "block_op_type": [["ir_k3"] * 2, ["ir_k3"], ["ir_k3"]],
                "block_cfg": {
                    "first": [16, 2],
                    "stages": [[[1, 16, 2, 2]], [[4, 24, 1, 1]], [[4, 32, 1, 2]]],
                    "last": [64, 1.0],
                    "backbone": [0],
                    "rpn": [1],
                    "head": [2],
                },
            }
        ),
        "MODEL.RPN.ANCHOR_STRIDE": "[4]",
        "MODEL.ROI_BOX_HEAD.POOLER_SCALES": "[0.25]",
        "MODEL.ROI_KEYPOINT_HEAD.POOLER_SCALES": "[0.25]",
    }
)
DEFORMED = {"MODEL.RESNETS.STAGE_WITH_DCN": "(False, True, True, True)"}
XCONV = {
    "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR": "FPNXconv1fcFeatureExtractor",
    "MODEL.ROI_BOX_HEAD.NUM_STACKED_CONVS": "2",
}
GROUP_NORM = {
    "MODEL.BACKBONE.NORM": "GN",
    "MODEL.FPN.USE_GN": "True",
    "MODEL.ROI_BOX_HEAD.USE_GN": "True",
    "MODEL.ROI_MASK_HEAD.USE_GN": "True",
}
BATCH_NORM_HEADS = XCONV | {
    "MODEL.BACKBONE.NORM": "BN",
    "MODEL.FPN.NORM": "BN",
    "MODEL.RPN.NUM_CONVS": "2",
    "MODEL.ROI_BOX_HEAD.NORM": "BN",
    "MODEL.ROI_MASK_HEAD.NORM": "BN",
}
TIMM = {"MODEL.BACKBONE.CONV_BODY": "timm:test_convnext"}

FAMILIES: dict[str, Overrides] = {
    "pyramid": MASKS,
    "masks without enlargement": MASKS
    | {
        "MODEL.ROI_MASK_HEAD.PREDICTOR": "MaskRCNNConv1x1Predictor",
        "MODEL.ROI_MASK_HEAD.RESOLUTION": "14",
    },
    "C4": C4 | MASKS,
    "C4 shared": C4 | MASKS | SHARED,
    "C5": C5,
    "RetinaNet, P6 from C5": RETINANET,
    "RetinaNet, P6 from P5": RETINANET | {"MODEL.RETINANET.USE_C5": "False"},
    "FBNet": FBNET,
    "FBNet, masks, batch norm": FBNET | BATCH_NORM | MASKS,
    "FBNet, keypoints": FBNET_KEYPOINTS,
    "FBNet, keypoints shared": FBNET_KEYPOINTS
    | {"MODEL.ROI_KEYPOINT_HEAD.SHARE_BOX_FEATURE_EXTRACTOR": "True"},
    "deformable v1": DEFORMED,
    "deformable v2": DEFORMED | {"MODEL.RESNETS.WITH_MODULATED_DCN": "True"},
    "keypoints": KEYPOINTS,
    "masks and keypoints": MASKS | KEYPOINTS,
    "class-agnostic": {"MODEL.CLS_AGNOSTIC_BBOX_REG": "True"},
    "timm": TIMM,
    "timm RetinaNet": RETINANET | TIMM,
    "timm C4": TIMM | WITHOUT_PYRAMID,
    "proposals": {"MODEL.RPN_ONLY": "True"},
    "C4 proposals": C4 | {"MODEL.RPN_ONLY": "True"},
    "group norm": GROUP_NORM | MASKS,
    "Xconv": GROUP_NORM | XCONV,
    "Xconv without norms": XCONV,
    "torchvision v2": BATCH_NORM_HEADS | MASKS,
    "detectron2's arithmetic": MASKS
    | {"MODEL.ARITHMETIC.ANCHORS": "detectron2", "MODEL.ARITHMETIC.ROI_ALIGNED": "True"},
}

SIZES = [(96, 128), (128, 90)]


def make_family(name: str, overrides: Overrides | None = None) -> tuple[Config, nn.Module]:
    pairs = {"CONVENTIONS": "modern"} | SMALL | FAMILIES[name] | (overrides or {})
    cfg = load_config(None, [part for pair in pairs.items() for part in pair])
    torch.manual_seed(0)
    return cfg, build_detection_model(cfg)


@pytest.fixture(scope="module")
def families() -> dict[str, nn.Module]:
    return {name: make_family(name)[1] for name in FAMILIES}


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, families: dict[str, nn.Module]) -> nn.Module:
    """Each family as it was built; a test may train it."""
    return copy.deepcopy(families[request.param])


def make_images(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
        for size in SIZES[:count]
    ]


def make_targets(counts: Sequence[int]) -> list[Target]:
    """So many objects in each image, with full masks and seventeen keypoints."""
    return [make_target(size, count) for size, count in zip(SIZES, counts, strict=False)]


def make_target(size: tuple[int, int], count: int) -> Target:
    boxes = torch.tensor([[10.0, 12, 60, 70], [40.0, 30, 88, 80]])[:count]
    steps = torch.linspace(0.05, 0.95, 17)[:, None]
    points = boxes[:, None, :2] + steps * (boxes[:, None, 2:] - boxes[:, None, :2])
    runs = torch.tensor([0, size[0] * size[1]])
    return {
        "boxes": boxes,
        "labels": torch.tensor([1, 3])[:count],
        "masks": RunLengthMasks.from_counts([runs] * count, size),
        "keypoints": torch.cat([points, torch.full((count, 17, 1), 2.0)], dim=2),
        "image_size": torch.tensor(size),
        "original_size": torch.tensor(size),
    }


def detect(model: nn.Module, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    with torch.inference_mode():
        outputs: list[dict[str, Tensor]] = model.eval()(images)
    return outputs


STEPS = [((2, 1), False), ((2, 0), False), ((0,), False), ((2, 1), True), ((0, 0), True)]


@pytest.mark.parametrize(
    ("counts", "is_rounded"),
    STEPS,
    ids=[f"{counts} in {'bfloat16' if rounded else 'float32'}" for counts, rounded in STEPS],
)
def test_every_trained_parameter_gets_a_finite_gradient_whatever_the_images_hold(
    model: nn.Module, counts: tuple[int, ...], is_rounded: bool
) -> None:
    """So that DistributedDataParallel finds none unused. counts: the objects of each image."""
    with torch.autocast("cpu", dtype=torch.bfloat16) if is_rounded else nullcontext():
        losses = model.train()(make_images(len(counts)), make_targets(counts))
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert all(math.isfinite(loss.detach()) for loss in losses.values())
    sum(losses.values()).backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name, gradient in trained.items() if gradient is None]
    assert all(gradient.isfinite().all() for gradient in trained.values() if gradient is not None)


@pytest.mark.parametrize(
    ("count", "is_rounded"), [(2, False), (1, True)], ids=["two in float32", "one in bfloat16"]
)
def test_detections_are_finite_inside_the_image_and_best_first(
    model: nn.Module, count: int, is_rounded: bool
) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16) if is_rounded else nullcontext():
        outputs = detect(model, make_images(count))
    for output, (height, width) in zip(outputs, SIZES, strict=False):
        assert {value.dtype for value in output.values()} <= {torch.float32, torch.int64}
        assert all(value.isfinite().all() for value in output.values())
        assert len({len(value) for value in output.values()}) == 1
        assert len(output["scores"])
        assert (output["boxes"] >= 0).all()
        assert (output["boxes"] <= torch.tensor([width, height, width, height])).all()
        assert (output["scores"].diff() <= 0).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_changes_the_detections_and_the_state_restores_them_in_another_model(
    name: str,
) -> None:
    cfg, model = make_family(name)
    images = make_images(2)
    before = detect(model, images)
    losses = model.train()(images, make_targets((2, 1)))
    sum(losses.values()).backward()
    make_optimizer(cfg, model).step()
    after = detect(model, images)
    assert any(
        not torch.equal(a["scores"], b["scores"]) for a, b in zip(before, after, strict=True)
    )
    _, other = make_family(name)
    other.load_state_dict(model.state_dict())
    for output, expected in zip(detect(other, images), after, strict=True):
        assert output.keys() == expected.keys()
        assert all(torch.equal(output[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", [name for name in FAMILIES if "proposals" not in name])
def test_nothing_found_has_the_shapes_of_something_found(
    name: str, families: dict[str, nn.Module]
) -> None:
    nowhere = {"MODEL.ROI_HEADS.SCORE_THRESH": "1.0", "MODEL.RETINANET.INFERENCE_TH": "1.0"}
    _, deaf = make_family(name, nowhere)
    found = detect(copy.deepcopy(families[name]), make_images(1))[0]
    nothing = detect(deaf, make_images(1))[0]
    assert {key: (0, *value.shape[1:]) for key, value in found.items()} == {
        key: tuple(value.shape) for key, value in nothing.items()
    }
    assert {key: value.dtype for key, value in found.items()} == {
        key: value.dtype for key, value in nothing.items()
    }

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detengine.checkpoint.align import align, load_weights
from detengine.checkpoint.array_pickle import load_pickle
from detengine.checkpoint.caffe2_writer import to_blobs
from detengine.checkpoint.export import export_weights
from detengine.config.load import load_config
from detengine.modeling.build import build_detection_model

GOLDEN = Path(__file__).parents[2] / "../shared/golden"
needs_recordings = pytest.mark.skipif(not GOLDEN.exists(), reason="../shared is absent")
NARROW = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 32),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.ROI_BOX_HEAD.NUM_CLASSES", 5),
    *("MODEL.RETINANET.NUM_CLASSES", 5, "MODEL.WEIGHT", "", "MODEL.DEVICE", "cpu"),
    *("MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 16, "MODEL.ROI_BOX_HEAD.CONV_HEAD_DIM", 16),
    *("MODEL.ROI_MASK_HEAD.CONV_LAYERS", (16, 16)),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS", (16, 16)),
]
PYRAMID = ["MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 16]
FAMILIES: dict[str, list[Any]] = {
    "e2e_faster_rcnn_R_50_C4_1x": ["MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 128],
    "e2e_mask_rcnn_R_50_C4_1x": ["MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 128],
    "rpn_R_50_C4_1x": ["MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 128],
    "rpn_R_50_FPN_1x": PYRAMID,
    "e2e_faster_rcnn_R_50_FPN_1x": PYRAMID,
    "e2e_mask_rcnn_R_101_FPN_1x": PYRAMID,
    "e2e_mask_rcnn_X_101_32x8d_FPN_1x": [
        *(*PYRAMID, "MODEL.RESNETS.NUM_GROUPS", 2, "MODEL.BACKBONE.CONV_BODY", "R-50-FPN"),
    ],
    "e2e_keypoint_rcnn_R_50_FPN_1x": PYRAMID,
    "gn_baselines/e2e_mask_rcnn_R_50_FPN_Xconv1fc_1x_gn": [
        *(*PYRAMID, "MODEL.GROUP_NORM.NUM_GROUPS", 2),
    ],
    "gn_baselines/e2e_mask_rcnn_R_50_FPN_1x_gn": [*PYRAMID, "MODEL.GROUP_NORM.NUM_GROUPS", 2],
    "retinanet/retinanet_R-50-FPN_1x": PYRAMID,
    "retinanet/retinanet_R-50-FPN_P5_1x": PYRAMID,
    "mask head with a stage of its own": [],
}
OWN_STAGE = [
    *("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 128),
    *("MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", False),
]


def build(family: str, *overrides: Any) -> nn.Module:
    """The model of a configuration of the predecessor, narrow, each tensor drawn."""
    options = [*NARROW, *FAMILIES.get(family, PYRAMID), *overrides]
    if family == "mask head with a stage of its own":
        family, options = "e2e_mask_rcnn_R_50_C4_1x", [*options, *OWN_STAGE]
    torch.manual_seed(0)
    model = build_detection_model(load_config(GOLDEN / f"configs/{family}.yaml", options))
    for tensor in model.state_dict().values():
        tensor.normal_(std=0.1)
    for norm in frozen_norms(model):
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)
    return model.eval()


def frozen_norms(model: nn.Module) -> list[FrozenBatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]


def read_back(path: Path, model: nn.Module, like: nn.Module) -> dict[str, Tensor]:
    """What a file gives to a model that was drawn otherwise."""
    for tensor in like.state_dict().values():
        tensor.add_(1)
    load_weights(like, load_pickle(path)["model"], source=path.name, strict=True)
    assert like.state_dict().keys() == model.state_dict().keys()
    return like.state_dict()


@needs_recordings
@pytest.mark.parametrize(
    ("family", "epsilon"),
    [*((family, 1e-5) for family in FAMILIES), ("e2e_mask_rcnn_R_50_C4_1x", 0.0)],
)
def test_our_model_to_caffe2s_names_and_back_is_identity(
    tmp_path: Path, family: str, epsilon: float
) -> None:
    options = ["MODEL.ARITHMETIC.FROZEN_BN_EPSILON", epsilon]
    model, other = build(family, *options), build(family, *options)
    count = export_weights(tmp_path / "x.pkl", model.state_dict(), model)
    state = read_back(tmp_path / "x.pkl", model, other)
    assert count == len(state) - 2 * len(frozen_norms(model))
    for name, tensor in model.state_dict().items():
        if name.startswith("head.regression_head.bbox_reg."):  # divided by 10 or 5, and multiplied
            torch.testing.assert_close(state[name], tensor, rtol=2e-7, atol=0)
        else:
            assert torch.equal(state[name], tensor), name


@needs_recordings
@torch.no_grad()
def test_folded_statistics_leave_the_function_as_it_was(tmp_path: Path) -> None:
    family = "e2e_mask_rcnn_R_50_FPN_1x"
    options = ["MODEL.ARITHMETIC.FROZEN_BN_EPSILON", 1e-5]
    model, other = build(family, *options), build(family, *options)
    for norm in frozen_norms(model):
        norm.weight.uniform_(0.5, 1.5)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    export_weights(tmp_path / "x.pkl", model.state_dict(), model)
    read_back(tmp_path / "x.pkl", model, other)
    images = torch.randn(1, 3, 64, 64)
    for ours, theirs in zip(model.backbone(images), other.backbone(images), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6 * float(ours.abs().max()))
    norm, folded = frozen_norms(model)[3], frozen_norms(other)[3]
    maps = torch.randn(1, norm.weight.numel(), 4, 4)
    torch.testing.assert_close(folded(maps), norm(maps), rtol=1e-6, atol=1e-6)


@needs_recordings
def test_the_blobs_are_called_as_the_recorded_ones() -> None:
    recording = json.loads((GOLDEN / "c2_pkl/conversion.json").read_text())
    cfg = load_config(GOLDEN / recording["upstream_config"], recording["overrides"])
    model = build_detection_model(cfg)
    recorded = load_pickle(GOLDEN / "c2_pkl/model_c2.pkl")["model"]
    alignment = load_weights(model, recorded, source="model_c2.pkl", strict=True)
    blobs = to_blobs(model.state_dict(), model)
    aside = alignment.conversion.set_aside
    assert blobs.keys() == {name for name in recorded if name not in aside}
    assert all(torch.equal(blob, recorded[name]) for name, blob in blobs.items())


@needs_recordings
def test_every_numpy_and_every_pickle_reads_the_file(tmp_path: Path) -> None:
    model = build("rpn_R_50_C4_1x")
    path = tmp_path / "x.pkl"
    export_weights(path, model.state_dict(), model, class_names=["cat"], config="SEED: 0\n")
    assert b"numpy._core" not in path.read_bytes()  # which NumPy has since 2.0 only
    with path.open("rb") as file:
        data = pickle.load(file, encoding="latin1")
    assert data["categories"] == ["cat"]
    assert {array.dtype for array in data["blobs"].values()} == {np.dtype("float32")}
    weight = model.state_dict()["backbone.body.conv1.weight"]
    assert np.array_equal(data["blobs"]["conv1_w"], weight.numpy())
    read = load_pickle(path)
    assert (read["categories"], read["config"]) == (["cat"], "SEED: 0\n")


@needs_recordings
def test_a_trunk_alone_has_its_blobs(tmp_path: Path) -> None:
    model = build("e2e_faster_rcnn_R_50_FPN_1x")
    trunk = {n: t for n, t in model.state_dict().items() if n.startswith("backbone.body.")}
    blobs = to_blobs(trunk, model)
    assert len(blobs) == 53 * 3
    assert align(model, blobs).matched.keys() == trunk.keys()


@needs_recordings
@pytest.mark.parametrize(
    ("family", "overrides", "first"),
    [
        ("e2e_faster_rcnn_fbnet", [], "backbone.body.first.conv.weight"),
        ("dcn/e2e_faster_rcnn_mdconv_R_50_FPN_1x", PYRAMID, "layer2.0.conv2.offset.weight"),
        (
            "e2e_faster_rcnn_R_50_FPN_1x",
            ["MODEL.BACKBONE.NORM", "BN"],
            "backbone.body.bn1.weight, backbone.body.bn1.bias, backbone.body.bn1.running_mean",
        ),
        (
            "e2e_faster_rcnn_R_50_FPN_1x",
            ["MODEL.BACKBONE.CONV_BODY", "timm:resnet18"],
            "backbone.body",
        ),
    ],
)
def test_what_caffe2_has_no_names_for_is_refused_by_name(
    tmp_path: Path, family: str, overrides: list[Any], first: str
) -> None:
    options = [*NARROW, "MODEL.ROI_BOX_HEAD.NUM_CLASSES", 5, *overrides]
    model = build_detection_model(load_config(GOLDEN / f"configs/{family}.yaml", options))
    message = rf"\d+ of the \d+ tensors have no names in Caffe2 Detectron: .*{first}"
    with pytest.raises(ValueError, match=message):
        export_weights(tmp_path / "x.pkl", model.state_dict(), model)
    assert list(tmp_path.iterdir()) == []

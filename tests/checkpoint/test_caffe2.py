from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.ops import FrozenBatchNorm2d

from detengine.checkpoint.align import align, load_weights
from detengine.checkpoint.array_pickle import load_pickle
from detengine.checkpoint.checkpointer import Checkpointer
from detengine.checkpoint.conversion import Conventions
from detengine.checkpoint.maskrcnn_benchmark import name_map
from detengine.config.load import load_config
from detengine.modeling.anchors import AnchorGenerator

ModelOf = Callable[..., nn.Module]

SHARED = Path(__file__).parents[2] / "../shared"
RECORDED = SHARED / "golden/c2_pkl"
MSRA_R50 = SHARED / "weights/R-50.pkl"
needs_recordings = pytest.mark.skipif(not RECORDED.exists(), reason="../shared is absent")


BLOBS = {
    "conv1_w": "backbone.body.conv1.weight",
    "conv1_gn_s": "backbone.body.bn1.weight",
    "res_conv1_bn_b": "backbone.body.bn1.bias",
    "res2_0_branch1_w": "backbone.body.layer1.0.downsample.0.weight",
    "res2_0_branch1_bn_s": "backbone.body.layer1.0.downsample.1.weight",
    "res4_22_branch2b_w": "backbone.body.layer3.22.conv2.weight",
    "res5_2_branch2c_bn_s": "backbone.body.layer4.2.bn3.weight",
    "res3_1_branch2a_gn_b": "backbone.body.layer2.1.bn1.bias",
    "fpn_inner_res2_2_sum_lateral_w": "backbone.fpn.inner_blocks.0.0.weight",
    "fpn_inner_res4_22_sum_lateral_b": "backbone.fpn.inner_blocks.2.0.bias",
    "fpn_inner_res5_2_sum_w": "backbone.fpn.inner_blocks.3.0.weight",
    "fpn_inner_res5_2_sum_gn_s": "backbone.fpn.inner_blocks.3.1.weight",
    "fpn_res3_3_sum_b": "backbone.fpn.layer_blocks.1.0.bias",
    "conv_rpn_fpn2_w": "rpn.head.conv.0.0.weight",
    "conv_rpn_b": "rpn.head.conv.0.0.bias",
    "fpn_6_w": "backbone.fpn.extra_blocks.p6.weight",
    "fpn_7_b": "backbone.fpn.extra_blocks.p7.bias",
    "rpn_cls_logits_fpn2_w": "rpn.head.cls_logits.weight",
    "rpn_bbox_pred_b": "rpn.head.bbox_pred.bias",
    "fc6_w": "roi_heads.box_head.fc6.0.weight",
    "fc6_gn_s": "roi_heads.box_head.fc6.1.weight",
    "fc7_b": "roi_heads.box_head.fc7.bias",
    "cls_score_w": "roi_heads.box_predictor.cls_score.weight",
    "bbox_pred_b": "roi_heads.box_predictor.bbox_pred.bias",
    "_[mask]_fcn1_w": "roi_heads.mask_head.0.0.weight",
    "_[mask]_fcn1_gn_b": "roi_heads.mask_head.0.1.bias",
    "_[mask]_fcn4_b": "roi_heads.mask_head.3.0.bias",
    "_mask_fcn2_w": "roi_heads.mask_head.1.0.weight",
    "_mask_fcn2_gn_s": "roi_heads.mask_head.1.1.weight",
    "_[mask]_res5_0_branch1_w": "roi_heads.mask_head.layer4.0.downsample.0.weight",
    "_[mask]_res5_1_branch2c_bn_s": "roi_heads.mask_head.layer4.1.bn3.weight",
    "conv5_mask_w": "roi_heads.mask_predictor.conv5_mask.weight",
    "mask_fcn_logits_b": "roi_heads.mask_predictor.mask_fcn_logits.bias",
    "conv_fcn8_w": "roi_heads.keypoint_head.14.weight",
    "kps_score_lowres_b": "roi_heads.keypoint_predictor.kps_score_lowres.bias",
}


def test_each_blob_has_its_place(model_of: ModelOf) -> None:
    blobs = {name: torch.rand(1) for name in BLOBS}
    model = model_of({ours: blobs[blob] for blob, ours in BLOBS.items()})
    alignment = load_weights(model, blobs, source="x.pkl", strict=True)
    assert "Caffe2 Detectron's names" in alignment.report()
    state = model.state_dict()
    assert all(torch.equal(state[ours], blobs[blob]) for blob, ours in BLOBS.items())


@pytest.mark.parametrize(("has_norm", "last"), [(False, 0), (True, 1)])
def test_a_box_head_of_convolutions_has_its_places(
    model_of: ModelOf, has_norm: bool, last: int
) -> None:
    kinds = ["w", "gn_s", "gn_b"] if has_norm else ["w", "b"]
    names = [f"head_conv{i}_{kind}" for i in range(1, 5) for kind in kinds]
    blobs = {name: torch.rand(1) for name in ["res2_0_branch1_w", *names, "fc6_w"]}
    places = align(model_of({}), blobs).conversion.sources
    assert places[f"roi_heads.box_head.3.{last}.bias"] == f"head_conv4_{kinds[-1]}"
    assert places["roi_heads.box_head.1.0.weight"] == "head_conv2_w"
    assert places["roi_heads.box_head.5.weight"] == "fc6_w"


def test_what_no_detector_needs_is_set_aside_with_its_reason(model_of: ModelOf) -> None:
    names = ["conv1_w_momentum", "fc1000_w", "pred_b", "conv1_b", "res2_0_branch2a_b"]
    names += ["kps_score_w"]
    blobs = {name: torch.rand(1) for name in ["res2_0_branch1_w", *names]}
    model = model_of({"backbone.body.layer1.0.downsample.0.weight": torch.ones(1)})
    alignment = load_weights(model, blobs, source="x.pkl", strict=True)
    assert list(alignment.conversion.set_aside) == names
    for reason in ("Caffe2's solver", "ImageNet's classifier", "biases in front of norms"):
        assert reason in alignment.report()


RETINANET_BLOBS = {
    "retnet_cls_conv_n0_fpn3_w": "head.classification_head.conv.0.0.weight",
    "retnet_cls_conv_n3_fpn3_b": "head.classification_head.conv.3.0.bias",
    "retnet_bbox_conv_n1_fpn3_w": "head.regression_head.conv.1.0.weight",
    "retnet_cls_pred_fpn3_w": "head.classification_head.cls_logits.weight",
    "retnet_bbox_pred_fpn3_b": "head.regression_head.bbox_reg.bias",
    "fpn_inner_res3_3_sum_lateral_w": "backbone.fpn.inner_blocks.0.0.weight",
    "fpn_res5_2_sum_b": "backbone.fpn.layer_blocks.2.0.bias",
}


def test_each_blob_of_a_retinanet_has_its_place(model_of: ModelOf) -> None:
    blobs = {name: torch.rand(1) for name in ["res3_0_branch1_w", *RETINANET_BLOBS]}
    sources = align(model_of({}), blobs).conversion.sources
    assert {theirs: ours for ours, theirs in sources.items()}.items() >= RETINANET_BLOBS.items()


def test_a_retinanets_anchors_and_shifts_are_put_into_our_order_and_unit(
    model_of: ModelOf,
) -> None:
    ratios, sizes = (1.0, 2.0, 0.5), (512, 645, 813)
    anchors = AnchorGenerator([sizes], ratios, [128], "detectron").get_buffer("cell_anchors_0")
    names = [
        f"head.{name}.bias"
        for name in ("classification_head.cls_logits", "regression_head.bbox_reg")
    ]
    model = model_of(
        {names[0]: torch.zeros(9 * 2), names[1]: torch.zeros(9 * 4)},
        anchors={"anchor_generator.cell_anchors_0": anchors},
    )
    # Of the anchor of each size and ratio: its own number, for each class and shift.
    number = torch.tensor([[10.0 * size + ratio for ratio in range(3)] for size in range(3)])
    blobs = {
        "res3_0_branch1_w": torch.rand(1),
        "retnet_cls_pred_fpn3_b": number.flatten().repeat_interleave(2),
        "retnet_bbox_pred_fpn3_b": number.flatten().repeat_interleave(4),
    }
    load_weights(model, blobs, source="x.pkl", strict=False)
    expected = number.T.flatten()
    assert torch.equal(model.get_buffer(names[0]), expected.repeat_interleave(2))
    factors = torch.tensor([10.0, 10.0, 5.0, 5.0]).repeat(9)
    assert torch.equal(model.get_buffer(names[1]), expected.repeat_interleave(4) * factors)


def residual(kind: str) -> dict[str, Tensor]:
    """The blobs of one residual block."""
    in_group = 2 if kind == "grouped" else 4
    blobs = {
        "res2_0_branch2a_w": torch.rand(4, 4, 1, 1),
        "res2_0_branch2b_w": torch.rand(4, in_group, 3, 3),
    }
    if kind != "basic":
        blobs["res2_0_branch2c_w"] = torch.rand(8, 4, 1, 1)
    return blobs | {f"res2_0_branch2a_{'gn' if kind == 'group norm' else 'bn'}_s": torch.rand(4)}


@pytest.mark.parametrize(
    ("kind", "stride_in_1x1"),
    [("plain", True), ("grouped", False), ("group norm", False), ("basic", None)],
)
def test_the_blobs_tell_the_conventions(
    model_of: ModelOf, kind: str, stride_in_1x1: bool | None
) -> None:
    conversion = align(model_of({}), residual(kind)).conversion
    assert conversion.conventions == Conventions(bgr255=True, stride_in_1x1=stride_in_1x1)


CATALOGUED = [
    path
    for path in sorted((SHARED / "golden/configs").rglob("*.yaml"))
    if "catalog://" in path.read_text()
]


@pytest.mark.parametrize("path", CATALOGUED, ids=lambda path: path.stem)
def test_the_predecessors_configurations_agree_with_the_weights_they_name(
    model_of: ModelOf, path: Path
) -> None:
    cfg = load_config(path)
    name = cfg.MODEL.WEIGHT
    kind = "group norm" if name.endswith("-GN") else "grouped" if "X-1" in name else "plain"
    conventions = align(model_of({}), residual(kind)).conversion.conventions
    assert conventions == Conventions(cfg.INPUT.TO_BGR255, cfg.MODEL.RESNETS.STRIDE_IN_1X1)


def test_a_blob_of_no_known_name_is_named_as_unused(model_of: ModelOf) -> None:
    blobs = {"res2_0_branch1_w": torch.rand(1), "lr": torch.rand(1), "new_thing_w": torch.rand(1)}
    model = model_of({"backbone.body.layer1.0.downsample.0.weight": torch.ones(1)})
    assert align(model, blobs).unexpected == ["lr", "new_thing_w"]


@pytest.mark.parametrize("heads", [["box"], ["box", "mask"]])
def test_the_last_stage_goes_into_the_heads_of_a_c4_model(
    model_of: ModelOf, heads: list[str]
) -> None:
    places = [f"roi_heads.{head}_head.layer4.0.conv1.weight" for head in heads]
    model = model_of(dict.fromkeys(places, torch.ones(1)))
    load_weights(model, {"res5_0_branch2a_w": torch.full((1,), 3.0)}, source="x.pkl", strict=True)
    assert [model.state_dict()[place].item() for place in places] == [3.0] * len(heads)


def test_a_deformable_convolution_takes_the_plain_ones_weights(model_of: ModelOf) -> None:
    body = "backbone.body.layer2.0"
    places = [f"{body}.conv1.weight", f"{body}.conv2.conv.weight", f"{body}.conv2.offset.weight"]
    model = model_of(dict.fromkeys(places, torch.ones(1)))
    blobs = {"res3_0_branch2a_w": torch.rand(1), "res3_0_branch2b_w": torch.rand(1)}
    alignment = load_weights(model, blobs, source="x.pkl", strict=False)
    assert list(alignment.matched) == places[:2]
    assert alignment.missing == places[2:]


@pytest.mark.parametrize("eps", [0.0, 1e-5, 1e-3])
def test_folded_statistics_leave_scale_and_bias_alone(model_of: ModelOf, eps: float) -> None:
    norm = FrozenBatchNorm2d(4, eps=eps)
    norm.running_var.fill_(7)
    norm.running_mean.fill_(7)
    model = model_of({}, frozen_norms={"backbone.body.layer1.0.bn2": norm})
    scale, bias = torch.rand(4), torch.rand(4)
    blobs = {"res2_0_branch2b_bn_s": scale, "res2_0_branch2b_bn_b": bias}
    report = load_weights(model, blobs, source="x.pkl", strict=True).report()
    assert report.splitlines() == [
        "4 tensors match (the file has Caffe2 Detectron's names)",
        "2 of them are not in the file, whose format fixes their values",
    ]
    image = torch.randn(2, 4, 3, 3)
    expected = image * scale[:, None, None] + bias[:, None, None]
    torch.testing.assert_close(norm(image), expected, rtol=3e-7, atol=1e-7)


@needs_recordings
def test_the_recorded_pickle_gives_the_recorded_state(model_of: ModelOf) -> None:
    recorded = torch.load(RECORDED / "loaded_state_dict.pth", weights_only=True)
    blobs = load_pickle(RECORDED / "model_c2.pkl")["model"]
    model = model_for(recorded, model_of)
    alignment = load_weights(model, blobs, source="model_c2.pkl", strict=True)
    assert set(alignment.conversion.set_aside) == {
        "pred_w", "pred_b", "conv1_w_momentum", "fc6_b_momentum", "cls_score_w_momentum"
    }  # fmt: skip
    state = model.state_dict()
    names = name_map([name for name in recorded if "cell_anchors" not in name])
    assert state.keys() == set(names.values())
    assert all(torch.equal(state[ours], recorded[theirs]) for theirs, ours in names.items())


def model_for(recorded: dict[str, Tensor], model_of: ModelOf) -> nn.Module:
    """A model with the places of a recorded state, its frozen norms without epsilon."""
    places = {
        ours: recorded[theirs]
        for theirs, ours in name_map(list(recorded)).items()
        if "cell_anchors" not in theirs
    }
    norms = {
        name.removesuffix(".running_var"): FrozenBatchNorm2d(len(tensor), eps=0.0)
        for name, tensor in places.items()
        if name.endswith(".running_var")
    }
    plain = {name: t for name, t in places.items() if name.rpartition(".")[0] not in norms}
    return model_of(plain, frozen_norms=norms)


@pytest.mark.skipif(not MSRA_R50.exists(), reason="../shared is absent")
def test_msras_r_50_fills_a_resnet_completely(tmp_path: Path) -> None:
    body = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    del body.fc
    model = nn.ModuleDict({"backbone": nn.ModuleDict({"body": body})})
    Checkpointer(model).load(MSRA_R50)
    blobs = load_pickle(MSRA_R50)["model"]
    alignment = align(model, blobs)
    assert alignment.is_complete
    assert sorted(alignment.conversion.set_aside) == ["fc1000_b", "fc1000_w"]
    assert len(alignment.matched) == len(blobs) - 2 + 2 * 53
    assert torch.equal(body.layer3[5].conv2.weight, blobs["res4_5_branch2b_w"])
    assert torch.equal(body.bn1.bias, blobs["res_conv1_bn_b"])
    assert alignment.conversion.conventions == Conventions(bgr255=True, stride_in_1x1=True)

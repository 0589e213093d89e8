import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detengine.config.load import load_config
from detengine.config.schema import Config
from detengine.modeling.build_fbnet import (
    build_fbnet_body,
    build_fbnet_roi_head,
    build_fbnet_rpn_head,
)
from detengine.modeling.fbnet_architectures import ARCHITECTURES

GOLDEN = Path(__file__).parents[2] / "../shared/golden"
RECORDED = GOLDEN / "e2e_faster_rcnn_fbnet"
CONFIGS = sorted(GOLDEN.glob("configs/*fbnet*.yaml"))
needs_recording = pytest.mark.skipif(not RECORDED.exists(), reason="../shared is absent")

PREFIXES = ("backbone.body.", "rpn.head.", "roi_heads.box.feature_extractor.head.")

MakeFBNet = Callable[..., Config]

OWN: dict[str, Any] = {
    "block_op_type": [["ir_k3"], ["ir_k3_e3", "ir_k3_e3"], ["ir_k3"] * 3],
    "block_cfg": {
        "first": [16, 2],
        "stages": [
            [[1, 16, 1, 2]],
            [[6, 24, 2, 1]],
            [[4, 32, 1, 2], [6, 40, 2, 1]],
        ],
        "last": [100, 1.0],
        "backbone": [0],
        "rpn": [1],
        "head": [2],
    },
}

STRIDING_RPN = OWN | {"block_cfg": OWN["block_cfg"] | {"rpn": [2]}}

ONE_MAP = [
    *("MODEL.BACKBONE.CONV_BODY", "FBNet"),
    *("MODEL.RPN.RPN_HEAD", "FBNet.rpn_head"),
    *("MODEL.RPN.USE_FPN", "False"),
    *("MODEL.RPN.ANCHOR_STRIDE", "(16,)"),
    *("MODEL.ROI_HEADS.USE_FPN", "False"),
    *("MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "FBNet.roi_head"),
    *("MODEL.ROI_BOX_HEAD.PREDICTOR", "FastRCNNPredictor"),
    *("MODEL.ROI_BOX_HEAD.POOLER_SCALES", "(0.0625,)"),
]


@pytest.fixture(params=["maskrcnn_benchmark", "modern"])
def make_fbnet(request: pytest.FixtureRequest) -> MakeFBNet:
    """(**MODEL.FBNET's keys) -> a configuration with an FBNet trunk, under both conventions."""

    def make(**fbnet: Any) -> Config:
        pairs = ["CONVENTIONS", request.param, *ONE_MAP]
        for key, value in fbnet.items():
            pairs += [f"MODEL.FBNET.{key}", str(value)]
        return load_config(None, pairs)

    return make


def recorded_config() -> Config:
    overrides = json.loads((RECORDED / "overrides.json").read_text())
    return load_config(
        GOLDEN / overrides["upstream_config"], list(map(str, overrides["overrides"]))
    )


def parts_of(cfg: Config) -> tuple[Any, Any, Any]:
    """The trunk, the proposal head and the box head, ready for inference."""
    body = build_fbnet_body(cfg)
    num_anchors = len(cfg.MODEL.RPN.ANCHOR_SIZES) * len(cfg.MODEL.RPN.ASPECT_RATIOS)
    rpn_head = build_fbnet_rpn_head(cfg, body.out_channels, num_anchors)
    return body.eval(), rpn_head.eval(), build_fbnet_roi_head(cfg, "bbox").eval()


def features_of(body: nn.Module) -> Tensor:
    images = np.load(GOLDEN / "common/preprocessed_div0_fbnet.npz")["tensor"]
    features: Tensor = body(torch.from_numpy(images))[0]
    return features


def difference(tensor: Tensor, recording: Any, name: str) -> float:
    """The largest deviation from the recorded slice and corners, by their largest value."""
    assert tensor.shape == tuple(recording[f"{name}_shape"])
    _, channels, height, width = tensor.shape
    rows, columns = slice(height // 3, height // 3 + 6), slice(width // 4, width // 4 + 6)
    corners = torch.stack([tensor[:, :, y, x] for y in (0, -1) for x in (0, -1)])
    deviations = [
        abs(each.numpy() - recording[f"{name}_{kind}"]).max()
        / abs(recording[f"{name}_{kind}"]).max()
        for kind, each in [
            ("slice", tensor[:, :: max(1, channels // 8), rows, columns]),
            ("corners", corners),
        ]
    ]
    sum_of_sizes = recording[f"{name}_stats"][2]
    return float(max(*deviations, abs(tensor.double().abs().sum() / sum_of_sizes - 1)))


@needs_recording
def test_the_recorded_weights_fill_every_parameter_and_give_the_recorded_outputs() -> None:
    weights = torch.load(RECORDED / "weights.pth", weights_only=True)
    body, rpn_head, box_head = parts_of(recorded_config())
    for module, prefix in zip((body, rpn_head, box_head), PREFIXES, strict=True):
        own = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
        module.load_state_dict(own)  # strict: none missing, none left over
    recording = np.load(RECORDED / "eval.npz")
    with torch.no_grad():
        features = features_of(body)
        (logits,), (deltas,) = rpn_head([features])
    assert difference(features, recording, "feat0") < 1e-4
    assert difference(logits, recording, "rpn_cls0") < 1e-4
    assert difference(deltas, recording, "rpn_reg0") < 1e-4


@needs_recording
def test_all_tensors_have_the_recorded_shapes_and_all_parameters_are_trained() -> None:
    table = json.loads((GOLDEN / "small/optimizer_table.json").read_text())
    recorded = table["e2e_faster_rcnn_fbnet"]
    with torch.device("meta"):
        parts = parts_of(recorded_config())
    for module, prefix in zip(parts, PREFIXES, strict=True):
        assert {prefix + n: list(t.shape) for n, t in module.state_dict().items()} == {
            n: shape
            for n, shape in recorded["state_dict_keys_shapes"].items()
            if n.startswith(prefix)
        }
        assert {prefix + name for name, _ in module.named_parameters()} == {
            group["name"] for group in recorded["groups"] if group["name"].startswith(prefix)
        }
    assert recorded["frozen"] == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_predecessor_s_files_build(path: Path) -> None:
    cfg = load_config(path)
    with torch.device("meta"):
        body, rpn_head, box_head = parts_of(cfg)
        pooled = torch.empty(3, body.out_channels, 6, 6)
        assert body(torch.empty(1, 3, 64, 97))[0].shape == (1, body.out_channels, 4, 7)
        assert body.strides == cfg.MODEL.RPN.ANCHOR_STRIDE == (16,)
        (logits,), (deltas,) = rpn_head([torch.empty(1, body.out_channels, 4, 7)])
        assert (logits.shape, deltas.shape) == ((1, 15, 4, 7), (1, 60, 4, 7))
        assert box_head(pooled).shape == (3, box_head.out_channels, 3, 3)
        if cfg.MODEL.MASK_ON:
            mask_head = build_fbnet_roi_head(cfg, "mask")
            side = cfg.MODEL.ROI_MASK_HEAD.RESOLUTION
            assert mask_head(pooled).shape == (3, mask_head.out_channels, side, side)


def test_a_last_layer_of_negative_scale_is_as_wide_as_what_comes_before(
    make_fbnet: MakeFBNet,
) -> None:
    cfg = make_fbnet(ARCH="xirb16d_dsmask", WIDTH_DIVISOR=8, DET_HEAD_LAST_SCALE=-1.0)
    head = build_fbnet_roi_head(cfg, "bbox")
    assert head.get_parameter("last.conv.weight").shape == (160, 160, 1, 1)
    assert head.out_channels == 160
    without = build_fbnet_roi_head(make_fbnet(DET_HEAD_LAST_SCALE=0.0), "bbox")
    assert list(without.get_submodule("last").children()) == []


@pytest.mark.parametrize(("scale", "width"), [(0.5, 100), (2.0, 200)])
def test_the_last_layer_is_widened_by_the_scale_factor_but_not_narrowed(
    make_fbnet: MakeFBNet, scale: float, width: int
) -> None:
    cfg = make_fbnet(ARCH="own", ARCH_DEF=json.dumps(OWN), SCALE_FACTOR=scale)
    assert build_fbnet_roi_head(cfg, "bbox").out_channels == width


def test_head_blocks_and_stride_choose_among_the_stage_s_blocks(make_fbnet: MakeFBNet) -> None:
    cfg = make_fbnet(DET_HEAD_BLOCKS=[1, 3], DET_HEAD_STRIDE=1, RPN_HEAD_BLOCKS=2)
    head = build_fbnet_roi_head(cfg, "bbox")
    assert [name for name, _ in head.get_submodule("blocks").named_children()] == [
        "xif4_1",
        "xif4_3",
    ]
    assert head(torch.zeros(2, 96, 6, 6)).shape == (2, 240, 6, 6)
    rpn_head = build_fbnet_rpn_head(cfg, 96, 15)
    assert [name for name, _ in rpn_head.get_submodule("0.head").named_children()] == [
        "xif5_1",
        "xif5_2",
    ]


def test_keypoints_take_the_stages_of_head_and_their_own_keys(make_fbnet: MakeFBNet) -> None:
    cfg = make_fbnet(ARCH="own", ARCH_DEF=json.dumps(OWN), KPTS_HEAD_BLOCKS=[0])
    head = build_fbnet_roi_head(cfg, "kpts")
    assert head(torch.zeros(1, 16, 14, 14)).shape == (1, 32, 7, 7)


def test_a_region_head_stands_on_any_backbone_s_channels(make_fbnet: MakeFBNet) -> None:
    head = build_fbnet_roi_head(make_fbnet(), "bbox", in_channels=1024)
    assert head(torch.zeros(1, 1024, 6, 6)).shape == (1, 240, 3, 3)


def test_an_architecture_of_one_s_own_has_its_own_stride(make_fbnet: MakeFBNet) -> None:
    body = build_fbnet_body(make_fbnet(ARCH="own", ARCH_DEF=json.dumps(OWN)))
    assert (body.strides, body.out_channels) == ((4,), 16)
    assert body(torch.zeros(1, 3, 34, 40))[0].shape == (1, 16, 9, 10)


def test_frozen_norms_have_the_convention_s_epsilon(make_fbnet: MakeFBNet) -> None:
    cfg = make_fbnet(BN_TYPE="af")
    norms = [m for m in build_fbnet_body(cfg).modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(norms) == 27
    assert {norm.eps for norm in norms} == {cfg.MODEL.ARITHMETIC.FROZEN_BN_EPSILON}


def test_group_norm_builds_and_trains(make_fbnet: MakeFBNet) -> None:
    """The predecessor looks its groups up under a key that does not exist, and raises."""
    cfg = make_fbnet(BN_TYPE="gn", SCALE_FACTOR=0.5, WIDTH_DIVISOR=8)
    body = build_fbnet_body(cfg)
    groups = [m.num_groups for m in body.modules() if isinstance(m, nn.GroupNorm)]
    assert max(groups) == cfg.MODEL.GROUP_NORM.NUM_GROUPS
    body(torch.randn(1, 3, 64, 64))[0].square().sum().backward()
    assert all(parameter.grad is not None for parameter in body.parameters())


def test_the_proposal_head_may_have_another_norm(make_fbnet: MakeFBNet) -> None:
    cfg = make_fbnet(RPN_BN_TYPE="gn")
    kinds = {type(m) for m in build_fbnet_rpn_head(cfg, 96, 15).modules()}
    assert nn.GroupNorm in kinds
    assert nn.BatchNorm2d not in kinds
    assert nn.BatchNorm2d in {type(m) for m in build_fbnet_body(cfg).modules()}


def test_the_definition_of_a_known_architecture_is_taken_if_it_is_the_same(
    make_fbnet: MakeFBNet,
) -> None:
    known = {
        "block_op_type": [["ir_k3"] * n for n in (1, 2, 3, 7, 4)],
        "block_cfg": {
            "first": [32, 2],
            "stages": [
                [[1, 16, 1, 1]],
                [[6, 24, 2, 2]],
                [[6, 32, 3, 2]],
                [[6, 64, 4, 2], [6, 96, 3, 1]],
                [[6, 160, 3, 1], [6, 320, 1, 1]],
            ],
            "last": [0, 0.0],
            "backbone": [0, 1, 2, 3],
            "bbox": [4],
        },
    }
    cfg = make_fbnet(ARCH="mobilenet_v2", ARCH_DEF=json.dumps(known))
    assert build_fbnet_roi_head(cfg, "bbox").out_channels == 320


@pytest.mark.parametrize(
    ("fbnet", "message"),
    [
        (
            {"ARCH": "mobilenet_v3"},
            r"MODEL.FBNET.ARCH: 'mobilenet_v3' is not known \(did you mean mobilenet_v2\?\); "
            r"expected one of default, .*or define it in MODEL.FBNET.ARCH_DEF",
        ),
        ({"ARCH": "own", "ARCH_DEF": "{"}, r"MODEL.FBNET.ARCH_DEF: not valid json"),
        (
            {"ARCH": "default", "ARCH_DEF": json.dumps(OWN)},
            r"MODEL.FBNET.ARCH_DEF is not the architecture.*give your own another name",
        ),
        (
            {"ARCH": "own", "ARCH_DEF": json.dumps(OWN | {"rpn_stride": 8})},
            r"MODEL.RPN.ANCHOR_STRIDE: \[16\], but MODEL.FBNET.ARCH: own is made for 8",
        ),
        (
            {"ARCH": "own", "ARCH_DEF": json.dumps(STRIDING_RPN)},
            r"ARCH: the rpn stages of own have the stride 2, but .*; give the stages stride 1",
        ),
        ({"RPN_HEAD_BLOCKS": 4}, r"RPN_HEAD_BLOCKS: 4, but the rpn stages.*have 3 blocks"),
        ({"DET_HEAD_BLOCKS": [4]}, r"DET_HEAD_BLOCKS: \[4\], but the bbox stages.*blocks 0 to 3"),
        ({"DET_HEAD_STRIDE": 3}, r"MODEL.FBNET.DET_HEAD_STRIDE: 3; expected 1, 2, or 0"),
        ({"ARCH": "mobilenet_v2"}, r"ARCH: mobilenet_v2 has no rpn stages.*choose another head"),
        ({"SCALE_FACTOR": 0.01}, r"MODEL.FBNET.SCALE_FACTOR: 0.01 leaves no channel"),
        ({"SCALE_FACTOR": 1e30}, r"MODEL.FBNET: SCALE_FACTOR 1e\+30 and WIDTH_DIVISOR 1 make 3\d,"),
        ({"WIDTH_DIVISOR": 1000}, r"WIDTH_DIVISOR 1000 make 1,000,000 channels of 32 in a layer"),
    ],
)
def test_values_that_cannot_be_built_are_named(
    make_fbnet: MakeFBNet, fbnet: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        parts_of(make_fbnet(**fbnet))


def test_a_trunk_that_enlarges_below_a_pixel_is_refused(make_fbnet: MakeFBNet) -> None:
    enlarging = json.loads(json.dumps(OWN))
    enlarging["block_cfg"]["stages"][0][0][3] = -4
    cfg = make_fbnet(ARCH="own", ARCH_DEF=json.dumps(enlarging))
    with pytest.raises(ValueError, match=r"ARCH_DEF: the backbone's strides multiply to 1/2"):
        build_fbnet_body(cfg)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_known_architecture_trains_a_step(name: str) -> None:
    cfg = load_config(None, ["MODEL.FBNET.ARCH", name, "MODEL.FBNET.SCALE_FACTOR", "0.25"])
    body, head = build_fbnet_body(cfg), build_fbnet_roi_head(cfg, "bbox")
    head(body(torch.randn(2, 3, 64, 64))[0]).square().mean().backward()
    missing = [n for m in (body, head) for n, p in m.named_parameters() if p.grad is None]
    assert missing == []

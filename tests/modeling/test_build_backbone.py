import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.ops import FrozenBatchNorm2d

from detengine.config.load import load_config
from detengine.config.schema import Config
from detengine.modeling.build_backbone import build_backbone, build_res5, make_norm

GOLDEN = Path(__file__).parents[2] / "../shared/golden"
RECORDED = sorted(folder.parent for folder in GOLDEN.glob("*/weights.pth"))
CONFIGS = sorted((GOLDEN / "configs").rglob("*.yaml"))

NARROW = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": "8",
    "MODEL.RESNETS.RES2_OUT_CHANNELS": "32",
    "MODEL.RESNETS.WIDTH_PER_GROUP": "8",
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": "16",
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": "0",
}
FULL_WIDTH = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": "64",
    "MODEL.RESNETS.RES2_OUT_CHANNELS": "256",
    "MODEL.RESNETS.WIDTH_PER_GROUP": "64",
}


def config(
    body: str = "R-50-FPN",
    overrides: dict[str, str] | None = None,
    conventions: str = "maskrcnn_benchmark",
) -> Config:
    """A narrow model of this body, its levels and scales as the body has them."""
    is_pyramid = "FPN" in body
    strides = [4, 8, 16, 32, 64] if is_pyramid else [32 if body.endswith("C5") else 16]
    pairs = NARROW | {
        "CONVENTIONS": conventions,
        "MODEL.BACKBONE.CONV_BODY": body,
        "MODEL.RPN.USE_FPN": str(is_pyramid),
        "MODEL.ROI_HEADS.USE_FPN": str(is_pyramid),
        "MODEL.RPN.ANCHOR_STRIDE": str(strides),
        "MODEL.ROI_BOX_HEAD.POOLER_SCALES": str([1 / strides[0]]),
        "MODEL.RETINANET_ON": str(body.endswith("RETINANET")),
    }
    pairs |= overrides or {}
    return load_config(None, [part for pair in pairs.items() for part in pair])


def recorded_config(folder: Path) -> Config:
    recipe = json.loads((folder / "overrides.json").read_text())
    pairs = [str(part) for part in recipe["overrides"]]
    return load_config(GOLDEN / recipe["upstream_config"], pairs)


def our_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's part of the predecessor's state dict, by the names of ours."""
    names = [name for name in state if name.startswith("backbone.")]
    numbers = [int(n) for n in re.findall(r"fpn_inner(\d)\.", " ".join(names))]
    first = min(numbers, default=0)

    def rename(name: str) -> str:
        name = name.removeprefix("backbone.").replace("body.stem.", "body.")
        name = name.replace("top_blocks", "extra_blocks")
        found = re.fullmatch(r"fpn\.fpn_(inner|layer)(\d)\.(?:(\d)\.)?(\w+)", name)
        if found is None:
            return name
        kind, level, part, parameter = found.groups()
        return f"fpn.{kind}_blocks.{int(level) - first}.{part or 0}.{parameter}"

    return {rename(name): state[name] for name in names}


def relative_difference(output: Tensor, expected: np.ndarray) -> float:
    expected = torch.from_numpy(expected)
    assert output.shape == expected.shape
    return float((output - expected).abs().max() / expected.abs().max())


def corners_of(maps: Tensor) -> Tensor:
    rows = [maps[:, :, row, column] for row in (0, -1) for column in (0, -1)]
    return torch.stack(rows)


def part_of(maps: Tensor) -> Tensor:
    _, channels, height, width = maps.shape
    top, left = height // 3, width // 4
    return maps[:, :: max(1, channels // 8), top : top + 6, left : left + 6]


@pytest.mark.skipif(not RECORDED, reason="../shared is absent")
@pytest.mark.parametrize("folder", RECORDED, ids=lambda folder: folder.name)
def test_features_are_those_that_the_predecessor_recorded(folder: Path) -> None:
    backbone = build_backbone(recorded_config(folder)).eval()
    backbone.load_state_dict(our_names(torch.load(folder / "weights.pth", weights_only=True)))
    recipe = json.loads((folder / "overrides.json").read_text())
    images = torch.from_numpy(np.load(GOLDEN / recipe["preprocessed"])["tensor"])
    recorded = np.load(folder / "eval.npz")
    # The predecessor ran the keypoint model on one image at a time.
    calls = (
        {"": images} if "feat0_stats" in recorded else {"call0_": images[:1], "call1_": images[1:]}
    )
    for prefix, batch in calls.items():
        with torch.no_grad():
            maps = backbone(batch)
        assert len(maps) == len(backbone.strides)
        assert f"{prefix}feat{len(maps)}_stats" not in recorded
        for level, each in enumerate(maps):
            name = f"{prefix}feat{level}"
            assert list(each.shape) == list(recorded[f"{name}_shape"])
            assert relative_difference(part_of(each), recorded[f"{name}_slice"]) < 1e-4
            assert relative_difference(corners_of(each), recorded[f"{name}_corners"]) < 1e-4
            total = float(each.double().abs().sum())
            assert total == pytest.approx(recorded[f"{name}_stats"][2], rel=1e-4)


@pytest.mark.skipif(not CONFIGS, reason="../shared is absent")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_backbone_of_each_file_of_the_predecessor_builds_at_full_size(path: Path) -> None:
    cfg = load_config(path)
    with torch.device("meta"):
        backbone = build_backbone(cfg)
        maps = backbone(torch.empty(1, 3, 256, 384))
    assert [tuple(each.shape) for each in maps] == [
        (1, backbone.out_channels, 256 // stride, 384 // stride) for stride in backbone.strides
    ]


@pytest.mark.parametrize("conventions", ["maskrcnn_benchmark", "modern"])
@pytest.mark.parametrize(
    ("body", "channels", "strides"),
    [
        ("R-50-C4", 128, (16,)),
        ("R-101-C5", 256, (32,)),
        ("R-152-FPN", 16, (4, 8, 16, 32, 64)),
        ("R-50-FPN-RETINANET", 16, (8, 16, 32, 64, 128)),
        ("FBNet", None, (16,)),
    ],
)
def test_each_kind_of_body_builds_under_both_conventions(
    body: str, channels: int | None, strides: tuple[int, ...], conventions: str
) -> None:
    overrides = {"MODEL.RESNETS.BACKBONE_OUT_CHANNELS": str(channels or 1)}
    with torch.device("meta"):
        backbone = build_backbone(config(body, overrides, conventions))
        maps = backbone(torch.empty(1, 3, 128, 128))
    assert backbone.strides == strides
    assert channels in (backbone.out_channels, None)
    assert [tuple(each.shape) for each in maps] == [
        (1, backbone.out_channels, 128 // stride, 128 // stride) for stride in strides
    ]


@pytest.mark.parametrize(("levels", "lateral"), [("(8, 16, 32)", 3), ("(16, 32, 64, 128)", 2)])
def test_retinanets_pyramid_may_have_fewer_levels(levels: str, lateral: int) -> None:
    sizes = str([32] * len(ast.literal_eval(levels)))
    overrides = {"MODEL.RETINANET.ANCHOR_STRIDES": levels, "MODEL.RETINANET.ANCHOR_SIZES": sizes}
    with torch.device("meta"):
        backbone = build_backbone(config("R-50-FPN-RETINANET", overrides))
        maps = backbone(torch.empty(1, 3, 128, 128))
    assert len(backbone.fpn.inner_blocks) == lateral
    assert [128 // each.shape[-1] for each in maps] == list(ast.literal_eval(levels))


@pytest.mark.parametrize(
    ("body", "millions"), [("R-50-C4", 8.543), ("R-50-C5", 23.508), ("R-101-C4", 27.535)]
)
def test_bodies_have_as_many_parameters_as_torchvisions(body: str, millions: float) -> None:
    channels = {"C4": "1024", "C5": "2048"}[body[-2:]]
    overrides = FULL_WIDTH | {"MODEL.RESNETS.BACKBONE_OUT_CHANNELS": channels}
    with torch.device("meta"):
        backbone = build_backbone(config(body, overrides | {"MODEL.BACKBONE.NORM": "BN"}))
    count = sum(parameter.numel() for parameter in backbone.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=1e-3)


def test_parameters_have_torchvisions_names() -> None:
    overrides = FULL_WIDTH | {"MODEL.RESNETS.BACKBONE_OUT_CHANNELS": "256"}
    with torch.device("meta"):
        theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).backbone.state_dict()
        ours = build_backbone(config("R-50-FPN", overrides, "modern")).state_dict()
    # Without weights torchvision's model has batch norm, whose counter frozen ones lack.
    expected = {n: w.shape for n, w in theirs.items() if not n.endswith("num_batches_tracked")}
    assert {name: weight.shape for name, weight in ours.items()} == expected


def norms(module: nn.Module) -> set[str]:
    kinds = (nn.GroupNorm, nn.BatchNorm2d, FrozenBatchNorm2d)
    return {type(each).__name__ for each in module.modules() if isinstance(each, kinds)}


@pytest.mark.parametrize(
    ("overrides", "stem", "stages"),
    [
        ({}, "FrozenBatchNorm2d", "FrozenBatchNorm2d"),
        ({"MODEL.BACKBONE.NORM": "BN"}, "BatchNorm2d", "BatchNorm2d"),
        ({"MODEL.RESNETS.TRANS_FUNC": "BottleneckWithGN"}, "FrozenBatchNorm2d", "GroupNorm"),
        ({"MODEL.RESNETS.STEM_FUNC": "StemWithGN"}, "GroupNorm", "FrozenBatchNorm2d"),
        (
            {"MODEL.RESNETS.STEM_FUNC": "StemWithGN", "MODEL.BACKBONE.NORM": "GN"},
            "GroupNorm",
            "GroupNorm",
        ),
    ],
)
def test_the_norms_are_those_of_the_blocks_names_or_of_norm(
    overrides: dict[str, str], stem: str, stages: str
) -> None:
    body = build_backbone(config(overrides=overrides)).body
    assert norms(body.bn1) == {stem}
    assert norms(body.layer3) == {stages}


@pytest.mark.parametrize(
    ("conventions", "epsilon"), [("maskrcnn_benchmark", 0.0), ("modern", 1e-5)]
)
def test_frozen_norms_have_the_epsilon_of_the_convention(conventions: str, epsilon: float) -> None:
    assert make_norm(config(conventions=conventions), "FrozenBN")(4).eps == epsilon


def test_group_norm_takes_the_options_of_its_section() -> None:
    options = {"NUM_GROUPS": "-1", "DIM_PER_GP": "8", "EPSILON": "0.001"}
    cfg = config(overrides={f"MODEL.GROUP_NORM.{key}": value for key, value in options.items()})
    norm = make_norm(cfg, "GN")(32)
    assert (norm.num_groups, norm.eps) == (4, 0.001)
    assert make_norm(config(), "GN")(64).num_groups == 32


def test_res5_is_one_stage_that_halves_its_regions_unless_it_is_dilated() -> None:
    for dilation, side in (("1", 7), ("2", 14)):
        head = build_res5(config("R-50-C4", {"MODEL.RESNETS.RES5_DILATION": dilation}))
        assert (head.in_channels, head.out_channels) == (128, 256)
        assert head(torch.rand(2, 128, 14, 14)).shape == (2, 256, side, side)
        assert all(name.startswith("layer4.") for name in head.state_dict())


@pytest.mark.skipif(not RECORDED, reason="../shared is absent")
def test_res5_takes_the_predecessors_weights_of_the_c4_heads() -> None:
    folder = next(each for each in RECORDED if each.name.endswith("C4_1x"))
    prefix = "roi_heads.box.feature_extractor.head."
    weights = torch.load(folder / "weights.pth", weights_only=True)
    stage = {name.removeprefix(prefix): w for name, w in weights.items() if prefix in name}
    build_res5(recorded_config(folder)).load_state_dict(stage)


@pytest.mark.parametrize(("count", "frozen"), [("-1", set()), ("2", {"conv1", "layer1"})])
def test_as_many_parts_are_frozen_as_the_option_says(count: str, frozen: set[str]) -> None:
    backbone = build_backbone(config(overrides={"MODEL.BACKBONE.FREEZE_CONV_BODY_AT": count}))
    fixed = {name for name, each in backbone.named_parameters() if not each.requires_grad}
    assert {name.split(".")[1] for name in fixed} == frozen


def test_weights_are_drawn_in_the_way_of_the_convention() -> None:
    """XavierFill bounds a weight by sqrt(3 / fan-in); He's normal distribution has no bound."""
    for conventions in ("maskrcnn_benchmark", "modern"):
        weight = build_backbone(config(conventions=conventions)).body.layer3[1].conv2.weight
        bound = (3 / weight[0].numel()) ** 0.5
        assert bool(weight.abs().max() <= bound) == (conventions == "maskrcnn_benchmark")


@pytest.mark.parametrize(
    ("body", "overrides", "message"),
    [
        ("R-50", {}, r"CONV_BODY: 'R-50' is not known.* one of R-18-C4, .*FBNet, or timm:NAME"),
        ("R-50-C4", {}, r"BACKBONE_OUT_CHANNELS: 16, .* R-50-C4 has 128 channels.*set it to 128"),
        (
            "R-50-FPN",
            {"MODEL.RPN.ANCHOR_STRIDE": "(4, 16)", "MODEL.RPN.ANCHOR_SIZES": "(32, 64)"},
            r"RPN\.ANCHOR_STRIDE: \[4, 16\].* no gap",
        ),
        (
            "R-50-FPN",
            {"MODEL.RPN.ANCHOR_STRIDE": "(64,)", "MODEL.RPN.ANCHOR_SIZES": "(32,)"},
            r"\[64\] are.*64 only behind 32",
        ),
        (
            "R-50-FPN-RETINANET",
            {
                "MODEL.RETINANET.ANCHOR_STRIDES": "(16, 32, 64)",
                "MODEL.RETINANET.ANCHOR_SIZES": "(8, 8, 8)",
            },
            r"RETINANET\.ANCHOR_STRIDES: \[16, 32, 64\].*64 and 128 both or neither",
        ),
        (
            "R-50-FPN",
            {"MODEL.RESNETS.TRANS_FUNC": "BottleneckWithGN", "MODEL.BACKBONE.NORM": "BN"},
            r"TRANS_FUNC: BottleneckWithGN and MODEL\.BACKBONE\.NORM: BN contradict",
        ),
        ("R-50-FPN", {"MODEL.RESNETS.RES2_OUT_CHANNELS": "30"}, "30 is not a multiple of 4"),
        ("R-18-FPN", {}, "WIDTH_PER_GROUP 8 are of bottleneck blocks, and R-18-FPN has none"),
        (
            "R-34-FPN",
            {
                "MODEL.RESNETS.WIDTH_PER_GROUP": "64",
                "MODEL.RESNETS.STAGE_WITH_DCN": "(False, False, False, True)",
            },
            r"STAGE_WITH_DCN: \[False, False, False, True\].* R-34-FPN has none",
        ),
        (
            "R-50-FPN",
            {
                "MODEL.RESNETS.DEFORMABLE_GROUPS": "5",
                "MODEL.RESNETS.STAGE_WITH_DCN": "(False, True, True, True)",
            },
            "DEFORMABLE_GROUPS: 5, but a deformable convolution has 16 channels",
        ),
        (
            "R-50-FPN",
            {
                "MODEL.FPN.USE_GN": "True",
                "MODEL.GROUP_NORM.DIM_PER_GP": "5",
                "MODEL.GROUP_NORM.NUM_GROUPS": "-1",
            },
            "DIM_PER_GP: 5 channels to a group, but a layer has 16 channels",
        ),
    ],
)
def test_what_cannot_be_built_is_an_error_that_names_its_key(
    body: str, overrides: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone(config(body, overrides))


def test_a_stage_of_basic_blocks_cannot_be_dilated() -> None:
    options = {"MODEL.RESNETS.RES5_DILATION": "2", "MODEL.RESNETS.WIDTH_PER_GROUP": "64"}
    with pytest.raises(ValueError, match="RES5_DILATION: 2, but a ResNet-18 has no bottleneck"):
        build_res5(config("R-18-C4", options))

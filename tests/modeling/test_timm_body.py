import subprocess
import sys

import pytest
import torch
from packaging.version import Version
from torch import nn

from detengine.config.load import load_config
from detengine.modeling.build_backbone import build_backbone
from detengine.modeling.timm_body import TimmBody

timm = pytest.importorskip("timm", reason="timm, an optional extra, is not installed")

SMALL = {"CONVENTIONS": "modern", "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": "16"}
NO_PYRAMID = {
    "MODEL.RPN.USE_FPN": "False",
    "MODEL.ROI_HEADS.USE_FPN": "False",
    "MODEL.RPN.ANCHOR_STRIDE": "(16,)",
    "MODEL.ROI_BOX_HEAD.POOLER_SCALES": "(0.0625,)",
}
RETINANET = {"MODEL.RETINANET_ON": "True"}
REGNET = pytest.param(
    "regnety_004",
    marks=pytest.mark.skipif(
        Version(timm.__version__) < Version("1.0.30"),
        reason="before 1.0.30 timm asks for the numbers of a RegNet that is only sketched",
    ),
)


def build(name: str, overrides: dict[str, str]) -> nn.Module:
    pairs = SMALL | {"MODEL.BACKBONE.CONV_BODY": f"timm:{name}"} | overrides
    return build_backbone(load_config(None, [part for pair in pairs.items() for part in pair]))


@pytest.mark.parametrize(
    ("overrides", "strides"),
    [({}, [4, 8, 16, 32, 64]), (RETINANET, [8, 16, 32, 64, 128]), (NO_PYRAMID, [16])],
)
@pytest.mark.parametrize(
    "name", ["convnext_tiny", "resnet18", "resnet50.a1_in1k", "efficientnet_b0", REGNET]
)
def test_a_model_of_timm_is_a_backbone_for_every_family(
    name: str, overrides: dict[str, str], strides: list[int]
) -> None:
    with torch.device("meta"):
        backbone = build(name, overrides)
        maps = backbone(torch.empty(1, 3, 128, 256))
    assert list(backbone.strides) == strides
    assert [tuple(each.shape) for each in maps] == [
        (1, backbone.out_channels, 128 // stride, 256 // stride) for stride in strides
    ]


def test_a_plain_vision_transformer_is_a_backbone_without_a_pyramid() -> None:
    with torch.device("meta"):
        backbone = build(
            "vit_tiny_patch16_224", NO_PYRAMID | {"MODEL.BACKBONE.FREEZE_CONV_BODY_AT": "0"}
        )
        maps = backbone(torch.empty(1, 3, 96, 160))
    assert [tuple(each.shape) for each in maps] == [(1, 192, 6, 10)]


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_maps_are_those_of_timm_with_the_channels_second(name: str) -> None:
    body = TimmBody(name, [8, 16]).eval()
    with torch.no_grad():
        ours, theirs = body(torch.ones(1, 3, 64, 96)), body.net(torch.ones(1, 3, 64, 96))
    for stride, channels, mine, its in zip(body.strides, body.channels, ours, theirs, strict=True):
        assert mine.shape == (1, channels, 64 // stride, 96 // stride)
        assert torch.equal(mine, its if name == "resnet18" else its.permute(0, 3, 1, 2))


def test_stages_behind_the_last_level_are_not_built() -> None:
    with torch.device("meta"):
        names = [name for name, _ in TimmBody("resnet18", [4, 8]).named_parameters()]
    assert not any("layer3" in name or "layer4" in name for name in names)


def test_every_parameter_gets_a_gradient() -> None:
    backbone = build("resnet18", {"MODEL.BACKBONE.FREEZE_CONV_BODY_AT": "0"})
    sum(level.square().mean() for level in backbone(torch.rand(2, 3, 64, 64))).backward()
    assert all(each.grad is not None for each in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "count", "frozen"),
    [
        ("resnet18", -1, set()),
        ("resnet18", 1, {"conv1", "bn1"}),
        ("resnet18", 3, {"conv1", "bn1", "layer1", "layer2"}),
        ("convnext_tiny", 1, {"stem_0", "stem_1"}),
        ("convnext_tiny", 2, {"stem_0", "stem_1", "stages_0"}),
        ("swin_tiny_patch4_window7_224", 2, {"patch_embed", "layers_0"}),
        ("efficientnet_b0", 2, {"conv_stem", "bn1", "blocks.0", "blocks.1"}),
    ],
)
def test_freezing_stops_the_stem_and_the_stages_of_the_first_strides(
    name: str, count: int, frozen: set[str]
) -> None:
    with torch.device("meta"):
        body = TimmBody(name, [4, 8, 16, 32])
        body.freeze(count)
    stopped = {n for n, each in body.net.named_parameters() if not each.requires_grad}
    parts = {".".join(n.split(".")[: 2 if n.startswith("blocks") else 1]) for n in stopped}
    assert parts == frozen
    whole = [n for n, _ in body.net.named_parameters() if n.startswith(tuple(frozen or "-"))]
    assert all(n in stopped for n in whole if not n.startswith("blocks.1") or n[8] == ".")


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("convnext_tinny", {}, r"CONV_BODY: timm has no model 'convnext_tinny'; did you mean con"),
        ("q", {}, r"timm has no model 'q'; see timm\.list_models"),
        (
            "resnet10t.a1_in1k",
            {},
            r"timm has no weights 'a1_in1k' of resnet10t, but resnet10t\.c3_in1k; without such an",
        ),
        (
            "vit_tiny_patch16_224",
            {},
            r"vit_tiny_patch16_224 .* strides \[16\], but .* \[4, 8, 16, 32\] are",
        ),
        ("maxvit_tiny_tf_224", {}, "maxvit_tiny_tf_224 cannot be a backbone.*192 x 128 pixels"),
        (
            "hrnet_w18_small",
            {"MODEL.BACKBONE.FREEZE_CONV_BODY_AT": "1"},
            "FREEZE_CONV_BODY_AT: 1, but timm:hrnet_w18_small has no .* stride 2 .* set it to 0",
        ),
        ("resnet18", {"MODEL.BACKBONE.NORM": "GN"}, "its own norms.*NORM is GN.*at FrozenBN"),
        (
            "resnet18",
            {"MODEL.RESNETS.STAGE_WITH_DCN": "(False, False, False, True)"},
            r"STAGE_WITH_DCN \[False, False, False, True\]; leave",
        ),
    ],
)
def test_what_cannot_be_built_is_an_error_that_names_its_key(
    name: str, overrides: dict[str, str], message: str
) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        build(name, overrides)


def test_without_timm_the_error_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['timm'] = None\n"
        "from detengine.modeling.timm_body import TimmBody\n"
        "TimmBody('resnet18', [4])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ImportError" in done.stderr
    assert "pip install detengine[timm]" in done.stderr

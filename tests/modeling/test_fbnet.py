import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detengine.modeling.fbnet import make_blocks, total_stride
from detengine.modeling.fbnet_architectures import ARCHITECTURES, Block, read_architecture
from detengine.modeling.fbnet_blocks import PRIMITIVES, Shift, Shuffle, Style, rounded_width

BATCH_NORM = Style(nn.BatchNorm2d)

TINY: dict[str, Any] = {
    "block_op_type": [["ir_k3"], ["ir_k5_e3", "shuffle"], ["ir_k3"]],
    "block_cfg": {
        "first": [16, 2],
        "stages": [[[1, 8, 1, 1]], [[6, 8, 2, 2]], [[4, 16, 1, 2]]],
        "last": [0, 0.0],
        "rpn": [1],
        "bbox": [2],
    },
}


def one_block(
    primitive: str, in_channels: int, channels: int, stride: int, style: Style = BATCH_NORM
) -> nn.Module:
    blocks, _ = make_blocks([Block("xif0_0", primitive, 6, channels, stride)], in_channels, style)
    return blocks.get_submodule("xif0_0")


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


@pytest.mark.parametrize(
    ("width", "divisor", "expected"),
    [(16, 8, 16), (20, 8, 24), (19, 8, 16), (33.6, 8, 32), (5, 1, 5), (0, 8, 0), (3, 8, 64)],
)
def test_a_width_is_rounded_to_the_nearest_multiple_and_upwards_from_the_middle(
    width: float, divisor: int, expected: int
) -> None:
    """3 of 8 is the predecessor's: what would be 0 becomes the divisor's square."""
    assert rounded_width(width, divisor) == expected


@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_every_primitive_keeps_its_block_s_width_and_halves_at_stride_2(primitive: str) -> None:
    stride = 1 if PRIMITIVES[primitive].kernel == 1 else 2
    x = torch.randn(2, 16, 9, 12)
    block = one_block(primitive, 16, 24, stride)
    y = block(x)
    assert y.shape == (2, 24, *((9, 12) if stride == 1 else (5, 6)))
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())


@pytest.mark.parametrize("primitive", [p for p in PRIMITIVES if p != "skip"])
def test_a_block_that_keeps_the_shape_adds_its_input(primitive: str) -> None:
    block = one_block(primitive, 16, 16, 1)
    for norm in [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]:
        nn.init.zeros_(norm.weight)
    x = torch.randn(2, 16, 6, 6)
    y = block(x)
    # All that is added is zero; squeeze and excitation scale each channel of the sum.
    scale = y / x
    assert torch.allclose(scale, scale[:, :, :1, :1].expand_as(scale), atol=1e-5)
    if not PRIMITIVES[primitive].squeeze_excite:
        assert torch.equal(y, x)


def test_a_skip_is_the_identity_or_a_pointwise_convolution() -> None:
    x = torch.randn(1, 8, 5, 5)
    assert one_block("skip", 8, 8, 1)(x) is x
    assert shapes(one_block("skip", 8, 16, 1))["conv.conv.weight"] == (16, 8, 1, 1)
    assert one_block("skip", 8, 8, 4)(x).shape == (1, 8, 2, 2)


def test_inverted_residuals_have_the_predecessor_s_parameters() -> None:
    assert shapes(one_block("ir_k5_s4_se", 8, 16, 2)) == {
        "pw.conv.weight": (32, 2, 1, 1),
        "pw.bn.weight": (32,),
        "pw.bn.bias": (32,),
        "dw.conv.weight": (32, 1, 5, 5),
        "pwl.conv.weight": (16, 8, 1, 1),
        "pwl.bn.weight": (16,),
        "pwl.bn.bias": (16,),
        "se4.op.1.weight": (8, 16, 1, 1),
        "se4.op.1.bias": (8,),
        "se4.op.3.weight": (16, 8, 1, 1),
        "se4.op.3.bias": (16,),
    }


def test_two_depthwise_convolutions_are_dw1_with_norm_and_dw2_by_the_style() -> None:
    bare = shapes(one_block("ir_k33_e3", 8, 8, 1))
    assert {name for name in bare if name.startswith("dw.")} == {
        "dw.dw1.conv.weight",
        "dw.dw1.bn.weight",
        "dw.dw1.bn.bias",
        "dw.dw2.conv.weight",
    }
    full = one_block("ir_k33_e3", 8, 8, 1, Style(nn.BatchNorm2d, depthwise_norm=True))
    assert shapes(full).keys() - bare.keys() == {"dw.dw2.bn.weight", "dw.dw2.bn.bias"}


def test_the_relu_behind_the_depthwise_convolution_is_the_style_s() -> None:
    def last_of(style: Style) -> nn.Module:
        return list(one_block("ir_k3", 8, 8, 1, style).get_submodule("dw").children())[-1]

    assert isinstance(last_of(BATCH_NORM), nn.Conv2d)
    assert isinstance(last_of(Style(nn.BatchNorm2d, depthwise_relu=True)), nn.ReLU)


def test_a_negative_stride_enlarges_the_map_also_of_no_regions() -> None:
    block = one_block("ir_k3", 8, 8, -2)
    assert block(torch.randn(3, 8, 6, 5)).shape == (3, 8, 12, 10)
    assert block(torch.randn(0, 8, 6, 5)).shape == (0, 8, 12, 10)


@pytest.mark.parametrize("primitive", ["ir_k5_s4_se", "basic_block", "shift_5x5", "ir_k33_e1"])
def test_no_regions_in_training_leave_the_running_statistics_alone(primitive: str) -> None:
    block = one_block(primitive, 8, 8, 1)
    block(torch.randn(2, 8, 6, 6))
    before = {name: value.clone() for name, value in block.state_dict().items()}
    y = block(torch.randn(0, 8, 6, 6))
    y.sum().backward()
    changed = [n for n, value in block.state_dict().items() if not torch.equal(value, before[n])]
    assert [name for name in changed if not name.endswith("num_batches_tracked")] == []


def test_a_shuffle_takes_one_channel_of_each_group_in_turn() -> None:
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert Shuffle(2)(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]


def test_a_shift_moves_each_channel_and_keeps_those_left_over_in_the_middle() -> None:
    shift = Shift(27, 5, 1)
    picture = torch.zeros(1, 27, 5, 5)
    picture[:, :, 2, 2] = 1
    places = shift(picture).flatten(2).argmax(2)[0]
    # Correlation moves by the kernel's place, mirrored: the first channel to the far corner.
    assert places[0] == 24
    assert places[12:15].tolist() == [12, 12, 12]
    assert places[26] == 0
    assert list(shift.state_dict()) == ["kernel"]
    assert list(shift.parameters()) == []


def test_convolutions_are_drawn_with_the_deviation_of_their_outputs() -> None:
    torch.manual_seed(0)
    weight = one_block("ir_k3", 64, 64, 1).get_parameter("pw.conv.weight")
    assert weight.std().item() == pytest.approx((2 / 384) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("primitive", "in_channels", "stride", "message"),
    [
        ("skip", 8, -2, r"xif0_0 is skip with stride -2, but this kind takes one of 1, 2, 4"),
        ("basic_block", 8, 4, r"basic_block with stride 4.*one of 1, 2"),
        ("ir_k1", 8, 2, r"ir_k1 with stride 2.*one of 1, -1, -2, -4"),
        ("shuffle", 6, 1, r"4 groups must divide its channels, but those are 6, 36, 8"),
    ],
)
def test_a_block_that_cannot_be_built_is_named(
    primitive: str, in_channels: int, stride: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        one_block(primitive, in_channels, 8, stride)


def test_a_scale_that_leaves_no_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"SCALE_FACTOR: 0.01 leaves no channel.*at least 0.125"):
        one_block("ir_k3", 8, 8, 1, Style(nn.BatchNorm2d, 0.01))


def test_strides_multiply_and_negative_ones_divide() -> None:
    assert total_stride([2, 2, 4, -2]) == 8
    assert total_stride([]) == 1


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_known_trunks_have_a_stride_of_16(name: str) -> None:
    architecture = ARCHITECTURES[name]
    strides = [block.stride for stage in architecture.stages_of("backbone") for block in stage]
    assert total_stride([architecture.first.stride, *strides]) == 16


def test_rows_become_blocks_of_which_the_first_has_the_stride() -> None:
    architecture = read_architecture(json.dumps(TINY))
    assert architecture.stages[1] == (
        Block("xif1_0", "ir_k5_e3", 6, 8, 2),
        Block("xif1_1", "shuffle", 6, 8, 1),
    )
    assert architecture.first == (16, 2, 3)
    assert architecture.rpn_stride is None


def test_parts_may_stand_beside_block_cfg_and_head_serves_all_region_heads() -> None:
    changed = json.loads(json.dumps(TINY))
    changed["head"] = [changed["block_cfg"].pop("bbox")[0]]
    changed["rpn_stride"] = 8
    architecture = read_architecture(json.dumps(changed))
    assert architecture.stages_of("bbox") == architecture.stages_of("kpts")
    assert architecture.stages_of("kpts") == [architecture.stages[2]]
    assert architecture.rpn_stride == 8


def test_the_backbone_is_all_stages_but_the_last_where_nothing_else_is_said() -> None:
    architecture = read_architecture(json.dumps(TINY))
    assert architecture.stages_of("backbone") == list(architecture.stages[:2])
    assert architecture.stages_of("mask") == []


def spoil(change: Callable[[dict[str, Any]], object]) -> str:
    definition = json.loads(json.dumps(TINY))
    change(definition)
    return json.dumps(definition)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{first: 1}", r"not valid json: Expecting property name.*json.dumps"),
        ("[1, 2]", r"\[1, 2\] is not a json object"),
        (spoil(lambda d: d["block_cfg"].pop("first")), "first is missing"),
        (spoil(lambda d: d.update(bacbone=[0])), r"bacbone is not known \(did you mean backbone"),
        (
            spoil(lambda d: d["block_cfg"]["stages"][1][0].__setitem__(3, 3)),
            r"stages.1.0.3 is 3, but input should be 1, 2, 4, -1, -2 or -4",
        ),
        (
            spoil(lambda d: d["block_cfg"]["stages"][1][0].__setitem__(1, "8")),
            r"stages.1.0.1 is 8, but input should be a valid integer",
        ),
        (
            spoil(lambda d: d["block_op_type"][1].append("ir_k3")),
            r"stages hold \[1, 2, 1\] blocks, but block_op_type names \[1, 3, 1\]",
        ),
        (
            spoil(lambda d: d["block_op_type"].__setitem__(0, ["ir_k4"])),
            r"block_op_type.0 names 'ir_k4' \(did you mean ir_k\d.*the primitives are skip",
        ),
        (
            spoil(lambda d: d["block_cfg"].update(rpn=[3])),
            r"rpn is made of the stages \[3\], but there are only the stages 0 to 2",
        ),
        (spoil(lambda d: d["block_cfg"].update(rpn=[])), r"rpn is \[\], but list should have"),
    ],
)
def test_a_definition_s_mistakes_are_named_with_their_place(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_architecture(text)


def test_depthwise_filters_see_one_channel_each() -> None:
    block = one_block("ir_k3", 4, 4, 2)
    x = torch.randn(1, 24, 6, 6)
    weight: Tensor = block.get_parameter("dw.conv.weight")
    expected = F.conv2d(x, weight, stride=2, padding=1, groups=24)
    assert torch.equal(block.get_submodule("dw")(x), expected)

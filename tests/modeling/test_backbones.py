import pytest
import torch
from torchvision.models import resnet

from detengine.modeling.backbones import RESNET_DEPTHS, ResNet, ResNetFPN, make_norm_layer

FROZEN = make_norm_layer("FrozenBN")


@pytest.mark.parametrize("depth", RESNET_DEPTHS)
def test_parameters_are_named_and_shaped_as_torchvisions(depth):
    with torch.device("meta"):
        ours = ResNet(RESNET_DEPTHS[depth], 4, make_norm_layer("BN")).state_dict()
        theirs = getattr(resnet, f"resnet{depth}")().state_dict()
    shapes = {name: value.shape for name, value in theirs.items() if not name.startswith("fc.")}
    assert {name: value.shape for name, value in ours.items()} == shapes


def test_a_resnext_is_torchvisions():
    with torch.device("meta"):
        ours = ResNet(
            RESNET_DEPTHS[101], 4, make_norm_layer("BN"), groups=32, width_per_group=8
        ).state_dict()
        theirs = resnet.resnext101_32x8d().state_dict()
    assert all(theirs[name].shape == value.shape for name, value in ours.items())


def test_the_width_of_the_bottleneck_is_exact_for_any_two_numbers():
    with torch.device("meta"):
        for planes, width in [(24, 40), (48, 31), (64, 64), (10, 7)]:
            body = ResNet(
                RESNET_DEPTHS[50], 3, FROZEN, res2_planes=planes, width_per_group=width
            ).state_dict()
            widths = [body[f"layer{stage}.0.conv2.weight"].shape[0] for stage in (1, 2, 3)]
            assert widths == [width, 2 * width, 4 * width]


def test_stages_beyond_the_last_level_are_not_built():
    body = ResNet(RESNET_DEPTHS[18], 3, FROZEN, stem_channels=16, res2_planes=16)
    assert not any(name.startswith("layer4") for name in body.state_dict())
    assert body.out_channels == [16, 32, 64]


@pytest.mark.parametrize(
    ("strides", "sides"),
    [((4, 8, 16), [16, 8, 4]), ((4, 8, 16, 32, 64), [16, 8, 4, 2, 1]), ((8, 16), [8, 4])],
)
def test_the_pyramid_has_one_level_of_the_given_width_for_each_stride(strides, sides):
    body = ResNet(RESNET_DEPTHS[18], 4, FROZEN, stem_channels=8, res2_planes=8)
    features = ResNetFPN(body, strides, 12)(torch.rand(1, 3, 64, 64))
    assert [tuple(level.shape) for level in features] == [(1, 12, s, s) for s in sides]


@pytest.mark.parametrize(
    ("count", "frozen"), [(-1, set()), (0, set()), (1, {"conv1"}), (2, {"conv1", "layer1"})]
)
def test_freezing_stops_the_first_parts(count, frozen):
    body = ResNet(RESNET_DEPTHS[18], 4, FROZEN, stem_channels=8, res2_planes=8)
    body.freeze(count)
    assert {n.split(".")[0] for n, p in body.named_parameters() if not p.requires_grad} == frozen


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (48, 24), (16, 16), (7, 7), (37, 1)])
def test_group_norm_takes_the_largest_number_of_groups_that_divides(channels, groups):
    assert make_norm_layer("GN")(channels).num_groups == groups

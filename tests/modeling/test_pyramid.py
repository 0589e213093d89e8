import pytest
import torch
from torch import nn

from detengine.modeling.norms import frozen_batch_norm, group_norm_of_groups
from detengine.modeling.pyramid import CoarsestMap, Pyramid
from detengine.modeling.resnet import RESNET_DEPTHS, ResNet, ResNetPlan

FROZEN = frozen_batch_norm(1e-5)


def make_body() -> ResNet:
    return ResNet(ResNetPlan(RESNET_DEPTHS[18], FROZEN, FROZEN, stem_channels=8, res2_planes=8), 4)


@pytest.mark.parametrize(
    ("strides", "sides"),
    [((4, 8, 16), [16, 8, 4]), ((4, 8, 16, 32, 64), [16, 8, 4, 2, 1]), ((8, 16), [8, 4])],
)
def test_the_pyramid_has_one_level_of_the_given_width_for_each_stride(
    strides: tuple[int, ...], sides: list[int]
) -> None:
    pyramid = Pyramid(make_body(), strides, 12)
    features = pyramid(torch.rand(1, 3, 64, 64))
    assert [tuple(level.shape) for level in features] == [(1, 12, s, s) for s in sides]
    assert (pyramid.strides, pyramid.out_channels) == (strides, 12)


def test_without_a_pyramid_there_is_the_coarsest_map_alone() -> None:
    body = make_body()
    images = torch.rand(1, 3, 64, 64)
    features = CoarsestMap(body, 32, 64)(images)
    assert len(features) == 1
    assert torch.equal(features[0], body(images)[-1])


@pytest.mark.parametrize(
    ("out_channels", "of_c5", "in_channels"), [(12, True, 64), (12, False, 12), (64, True, 64)]
)
def test_p6_is_made_of_c5_or_p5_and_p7_of_p6(
    out_channels: int, of_c5: bool, in_channels: int
) -> None:
    pyramid = Pyramid(
        make_body(), (8, 16, 32, 64, 128), out_channels, coarse_levels="p6p7", p6_of_c5=of_c5
    )
    images = torch.rand(1, 3, 128, 128)
    features = pyramid(images)
    extra = pyramid.fpn.extra_blocks
    assert extra.p6.in_channels == in_channels
    source = pyramid.body(images)[-1] if of_c5 and out_channels != 64 else features[2]
    assert torch.equal(features[3], extra.p6(source))
    assert torch.equal(features[4], extra.p7(features[3].relu()))


def test_each_convolution_has_its_norm_without_a_bias_and_its_relu() -> None:
    pyramid = Pyramid(
        make_body(), (8, 16, 32), 12, norm_layer=group_norm_of_groups(4, 1e-5), relu=True
    )
    for block in (*pyramid.fpn.inner_blocks, *pyramid.fpn.layer_blocks):
        assert [type(part) for part in block] == [nn.Conv2d, nn.GroupNorm, nn.ReLU]
        assert block[0].bias is None
    assert all(bool((level >= 0).all()) for level in pyramid(torch.rand(1, 3, 64, 64)))


def test_the_pyramids_weights_are_uniform_with_the_variance_of_fan_in() -> None:
    fpn = Pyramid(make_body(), (4, 8, 16, 32), 64).fpn
    for block in fpn.layer_blocks:
        assert float(block[0].weight.detach().var()) == pytest.approx(1 / (64 * 9), rel=0.05)
        assert not block[0].bias.any()

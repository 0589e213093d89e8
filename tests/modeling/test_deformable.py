import pytest
import torch
from torch import nn
from torch.nn import functional as F

from detengine.modeling.deformable import DeformableConvolution, Deformation


def make(modulated: bool = False, offset_groups: int = 1, **options: int) -> DeformableConvolution:
    """One whose offsets are what a test sets the bias of the offset convolution to."""
    convolution = DeformableConvolution(8, 12, Deformation(modulated, offset_groups), **options)
    convolution.reset_parameters("torchvision")
    return convolution


@pytest.mark.parametrize("offset_groups", [1, 4])
@pytest.mark.parametrize(("modulated", "factor"), [(False, 1.0), (True, 0.5)])
def test_without_offsets_it_is_a_plain_convolution(
    modulated: bool, factor: float, offset_groups: int
) -> None:
    """Modulated, every point has half its weight, the sigmoid of 0."""
    convolution = make(modulated, offset_groups, stride=2, groups=2)
    x = torch.rand(2, 8, 9, 7)
    plain = F.conv2d(x, convolution.conv.weight, stride=2, padding=1, groups=2)
    assert torch.allclose(convolution(x), factor * plain, atol=1e-6)


def test_an_offset_of_one_pixel_down_is_the_convolution_of_the_moved_image() -> None:
    convolution = make()
    nn.init.constant_(convolution.offset.bias[0::2], 1.0)
    x = torch.rand(1, 8, 12, 12)
    moved = F.conv2d(x.roll(-1, dims=2), convolution.conv.weight, padding=1)
    assert torch.allclose(convolution(x)[..., 1:-2, :], moved[..., 1:-2, :], atol=1e-5)


def test_modulation_weighs_every_point_of_every_group_and_moves_none() -> None:
    convolution = make(modulated=True, offset_groups=2)
    nn.init.constant_(convolution.offset.bias[2 * 18 :], 100.0)
    x = torch.rand(1, 8, 6, 6)
    plain = F.conv2d(x, convolution.conv.weight, padding=1)
    assert torch.allclose(convolution(x), plain, atol=1e-6)


@pytest.mark.parametrize(("modulated", "channels"), [(False, 18), (True, 27)])
def test_parameters_are_named_and_shaped_as_the_predecessors(
    modulated: bool, channels: int
) -> None:
    shapes = {name: tuple(each.shape) for name, each in make(modulated).state_dict().items()}
    assert shapes == {
        "offset.weight": (channels, 8, 3, 3),
        "offset.bias": (channels,),
        "conv.weight": (12, 8, 3, 3),
    }


def test_offsets_start_at_random_in_the_predecessors_way_and_at_none_in_torchvisions() -> None:
    convolution = make()
    assert not convolution.offset.weight.any()
    convolution.reset_parameters("caffe2")
    assert convolution.offset.weight.abs().max() <= (3 / 72) ** 0.5
    assert convolution.conv.weight.abs().max() <= (1 / 72) ** 0.5
    assert convolution.offset.weight.any()
    assert not convolution.offset.bias.any()


def test_offset_groups_that_do_not_divide_the_channels_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"DEFORMABLE_GROUPS: 3, .* has 8 channels.*a divisor"):
        make(offset_groups=3)


def test_gradients_reach_the_offsets() -> None:
    convolution = make(modulated=True)
    convolution.reset_parameters("caffe2")
    convolution(torch.rand(1, 8, 6, 6)).square().sum().backward()
    assert all(bool(each.grad.any()) for each in convolution.parameters())


@pytest.mark.parametrize("modulated", [False, True])
def test_autocast_changes_no_more_than_its_rounding_and_keeps_the_maps_type(
    modulated: bool,
) -> None:
    convolution = make(modulated)
    x = torch.rand(1, 8, 9, 7).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = convolution(x)
    assert rounded.dtype == torch.bfloat16
    assert torch.allclose(rounded.float(), convolution(x.float()), atol=0.02)

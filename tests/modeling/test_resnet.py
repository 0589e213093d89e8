from typing import Any

import pytest
import torch
from torchvision.models import resnet

from detengine.modeling.deformable import DeformableConvolution, Deformation
from detengine.modeling.norms import frozen_batch_norm
from detengine.modeling.resnet import RESNET_DEPTHS, Res5Head, ResNet, ResNetPlan

FROZEN = frozen_batch_norm(1e-5)


def plan(depth: int = 50, **options: Any) -> ResNetPlan:
    options = {"norm_layer": FROZEN, "stem_norm_layer": FROZEN} | options
    return ResNetPlan(RESNET_DEPTHS[depth], **options)


def batch_normed(depth: int, **options: Any) -> ResNetPlan:
    norms = {"norm_layer": torch.nn.BatchNorm2d, "stem_norm_layer": torch.nn.BatchNorm2d}
    return plan(depth, **norms, **options)


@pytest.mark.parametrize("depth", RESNET_DEPTHS)
def test_parameters_are_named_and_shaped_as_torchvisions(depth: int) -> None:
    with torch.device("meta"):
        ours = ResNet(batch_normed(depth), 4).state_dict()
        theirs = getattr(resnet, f"resnet{depth}")().state_dict()
    shapes = {name: value.shape for name, value in theirs.items() if not name.startswith("fc.")}
    assert {name: value.shape for name, value in ours.items()} == shapes


def test_a_resnext_is_torchvisions() -> None:
    with torch.device("meta"):
        ours = ResNet(batch_normed(101, groups=32, width_per_group=8), 4).state_dict()
        theirs = resnet.resnext101_32x8d().state_dict()
    assert all(theirs[name].shape == value.shape for name, value in ours.items())


def test_features_are_torchvisions_by_its_weights() -> None:
    theirs = resnet.resnet18().eval()
    ours = ResNet(batch_normed(18), 4).eval()
    ours.load_state_dict({n: w for n, w in theirs.state_dict().items() if n[:3] != "fc."})
    images = torch.rand(1, 3, 64, 96)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    for stage, output in enumerate(ours(images)):
        x = getattr(theirs, f"layer{stage + 1}")(x)
        assert torch.equal(output, x)


def test_the_width_of_the_bottleneck_is_exact_for_any_two_numbers() -> None:
    with torch.device("meta"):
        for planes, width in [(24, 40), (48, 31), (64, 64), (10, 7)]:
            body = ResNet(plan(res2_planes=planes, width_per_group=width), 3).state_dict()
            widths = [body[f"layer{stage}.0.conv2.weight"].shape[0] for stage in (1, 2, 3)]
            assert widths == [width, 2 * width, 4 * width]


def test_stages_beyond_the_last_level_are_not_built() -> None:
    body = ResNet(plan(18, stem_channels=16, res2_planes=16), 3)
    assert not any(name.startswith("layer4") for name in body.state_dict())
    assert body.channels == (16, 32, 64)
    assert body.strides == (4, 8, 16)


@pytest.mark.parametrize(("in_1x1", "strides"), [(True, (2, 1)), (False, (1, 2))])
def test_the_stride_is_in_the_convolution_that_is_asked_for(
    in_1x1: bool, strides: tuple[int, int]
) -> None:
    with torch.device("meta"):
        body = ResNet(plan(stride_in_1x1=in_1x1), 4)
    for stage in (body.layer2, body.layer3, body.layer4):
        assert (stage[0].conv1.stride[0], stage[0].conv2.stride[0]) == strides
        assert stage[0].downsample[0].stride == (2, 2)
        assert all(block.conv1.stride == block.conv2.stride == (1, 1) for block in stage[1:])


def test_convolutions_are_deformed_in_the_stages_that_say_so_and_keep_their_strides() -> None:
    deformed = (False, True, False, True)
    options = {"deformation": Deformation(modulated=True), "deformed_stages": deformed}
    with torch.device("meta"):
        body = ResNet(plan(groups=2, width_per_group=8, **options), 4)
        shapes = [tuple(output.shape[1:]) for output in body(torch.empty(1, 3, 64, 64))]
    for stage, is_deformed in enumerate(deformed):
        layer = body.get_submodule(f"layer{stage + 1}")
        kinds = [isinstance(block.conv2, DeformableConvolution) for block in layer]
        assert kinds == [is_deformed] * len(layer)
    assert body.layer2[0].conv2.conv.groups == 2
    assert shapes == [(256, 16, 16), (512, 8, 8), (1024, 4, 4), (2048, 2, 2)]


def test_a_dilated_last_stage_has_no_stride() -> None:
    with torch.device("meta"):
        head = Res5Head(plan(), dilation=2)
        assert head(torch.empty(3, 1024, 14, 14)).shape == (3, 2048, 14, 14)
        assert Res5Head(plan())(torch.empty(0, 1024, 7, 7)).shape == (0, 2048, 4, 4)
    assert {block.conv2.dilation for block in head.layer4} == {(2, 2)}
    assert head.layer4[0].downsample[0].stride == (1, 1)


@pytest.mark.parametrize(
    ("count", "frozen"),
    [(-1, set()), (0, set()), (1, {"conv1"}), (2, {"conv1", "layer1"}), (5, None)],
)
def test_freezing_stops_the_first_parts(count: int, frozen: set[str] | None) -> None:
    body = ResNet(plan(18, stem_channels=8, res2_planes=8), 4)
    body.freeze(count)
    everything = {name.split(".")[0] for name, _ in body.named_parameters()}
    stopped = {n.split(".")[0] for n, p in body.named_parameters() if not p.requires_grad}
    assert stopped == (everything if frozen is None else frozen)


@pytest.mark.parametrize(
    ("initialisation", "variance"),
    [("caffe2", 1 / (64 * 9)), ("torchvision", 2 / (64 * 9))],
)
def test_weights_have_the_variance_of_their_initialisation(
    initialisation: str, variance: float
) -> None:
    body = ResNet(plan(18, initialisation=initialisation), 1)
    for block in body.layer1:
        assert float(block.conv2.weight.detach().var()) == pytest.approx(variance, rel=0.05)

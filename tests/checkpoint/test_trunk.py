from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50
from torchvision.ops import FrozenBatchNorm2d

from detengine.checkpoint.align import align
from detengine.checkpoint.conversion import Conventions
from detengine.checkpoint.trunk import CLASSIFIER

ModelOf = Callable[..., nn.Module]


def test_the_last_stage_of_an_imagenet_trunk_goes_into_the_heads_of_a_c4_model(
    model_of: ModelOf,
) -> None:
    trunk = resnet50(weights=None).state_dict()
    model = model_of(
        {
            ("roi_heads.box_head." if name.startswith("layer4.") else "backbone.body.")
            + name: tensor
            for name, tensor in trunk.items()
            if not name.startswith("fc.")
        }
    )
    alignment = align(model, trunk)
    assert alignment.missing == []
    assert alignment.conversion.set_aside == dict.fromkeys(["fc.weight", "fc.bias"], CLASSIFIER)
    assert alignment.is_complete
    name = "layer4.2.conv3.weight"
    assert alignment.matched[f"roi_heads.box_head.{name}"] is trunk[name]


def detector_over(net: Callable[..., nn.Module], epsilon: float = 1e-5) -> nn.Module:
    body = net(weights=None, norm_layer=lambda channels: FrozenBatchNorm2d(channels, epsilon))
    del body.fc
    return nn.ModuleDict({"backbone": nn.ModuleDict({"body": body})})


def trained(net: Callable[..., nn.Module]) -> dict[str, Tensor]:
    state = net(weights=None).state_dict()
    for name in state:
        if name.endswith("running_mean"):
            state[name].normal_()
    return state


@pytest.mark.parametrize(("net", "stride_in_1x1"), [(resnet50, False), (resnet18, None)])
def test_a_published_trunk_brings_its_programs_conventions(
    net: Callable[..., nn.Module], stride_in_1x1: bool | None
) -> None:
    alignment = align(detector_over(net), trained(net))
    assert alignment.is_complete
    assert alignment.conversion.conventions == Conventions(False, stride_in_1x1)


def test_a_trunk_without_classifier_or_with_folded_norms_tells_no_conventions() -> None:
    state = trained(resnet18)
    without = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    assert align(detector_over(resnet18), without).conversion.conventions is None
    folded = resnet18(weights=None).state_dict()
    assert align(detector_over(resnet18), folded).conversion.conventions is None


def test_a_published_trunks_epsilon_goes_into_the_variances_of_norms_without_one() -> None:
    state = trained(resnet18)
    name = "layer2.0.bn1.running_var"
    state[name].uniform_(0, 2e-5)
    matched = align(detector_over(resnet18, epsilon=0.0), state).matched[f"backbone.body.{name}"]
    expected = state[name].double() + 1e-5
    torch.testing.assert_close(matched.double(), expected, rtol=1e-6, atol=0)
    kept = align(detector_over(resnet18), state).matched[f"backbone.body.{name}"]
    assert kept is state[name]


def test_a_deformable_layer_of_any_stage_takes_the_trunks_convolution(model_of: ModelOf) -> None:
    names = ["layer1.0.conv1.weight", "layer1.0.conv2.weight", "layer2.0.conv2.weight"]
    trunk = {name: torch.rand(1) for name in names}
    deformable = "backbone.body.layer2.0.conv2.conv.weight"
    places = [*(f"backbone.body.{name}" for name in names[:2]), deformable]
    alignment = align(model_of(dict.fromkeys(places, torch.ones(1))), trunk)
    assert alignment.is_complete
    assert alignment.matched[deformable] is trunk[names[2]]

from collections.abc import Callable

import torch
from torch import nn
from torchvision.models import resnet50

from detengine.checkpoint.align import align
from detengine.checkpoint.trunk import CLASSIFIER

ModelOf = Callable[..., nn.Module]


def test_the_last_stage_of_an_imagenet_trunk_goes_into_the_heads_of_a_c4_model(
    model_of: ModelOf,
) -> None:
    with torch.device("meta"):
        trunk = resnet50(weights=None).state_dict()
    model = model_of(
        {
            ("roi_heads.box_head." if name.startswith("layer4.") else "backbone.body.")
            + name: torch.zeros(tensor.shape, device="meta")
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


def test_a_deformable_layer_of_any_stage_takes_the_trunks_convolution(model_of: ModelOf) -> None:
    names = ["layer1.0.conv1.weight", "layer1.0.conv2.weight", "layer2.0.conv2.weight"]
    trunk = {name: torch.rand(1) for name in names}
    deformable = "backbone.body.layer2.0.conv2.conv.weight"
    places = [*(f"backbone.body.{name}" for name in names[:2]), deformable]
    alignment = align(model_of(dict.fromkeys(places, torch.ones(1))), trunk)
    assert alignment.is_complete
    assert alignment.matched[deformable] is trunk[names[2]]

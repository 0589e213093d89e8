import re

import pytest
import torch
from torch import nn
from torchvision.models.detection import maskrcnn_resnet50_fpn, retinanet_resnet50_fpn

from detengine.checkpoint.align import align
from detengine.checkpoint.torchvision_names import recognise


def published(name: str) -> str:
    """The name that torchvision's files of 2019 have for one of its present names."""
    name = re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d)\.0\.", r"\1.", name)
    name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
    name = re.sub(r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.", name)
    return re.sub(r"_head\.conv\.(\d)\.0\.", lambda m: f"_head.conv.{2 * int(m[1])}.", name)


@pytest.mark.parametrize(
    ("build", "renamed"), [(maskrcnn_resnet50_fpn, 26), (retinanet_resnet50_fpn, 28)]
)
def test_torchvisions_published_names_are_its_present_ones(build: type, renamed: int) -> None:
    with torch.device("meta"):
        model: nn.Module = build(weights=None, weights_backbone=None, num_classes=2)
    state = model.state_dict()
    old = {published(name): tensor for name, tensor in state.items()}
    assert len(old.keys() - state.keys()) == renamed
    assert recognise(old)
    assert not recognise(state)
    alignment = align(model, old)
    assert alignment.is_complete
    assert all(alignment.matched[name] is tensor for name, tensor in state.items())

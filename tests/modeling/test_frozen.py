"""Frozen layers are not in the graph: autograd keeps nothing of them."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from detengine.modeling.build import build_detection_model


def kept_bytes(model, images) -> dict[str, int]:
    """What autograd keeps of each part of the backbone's body, in bytes."""
    kept, part = dict.fromkeys(["stem", "layer1", "layer2", "layer3", "layer4"], 0), "stem"

    def pack(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            kept[part] += tensor.numel() * tensor.element_size()
        return tensor

    batch, _ = model.preprocess(images)
    body = model.backbone.body
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        x = body.maxpool(body.relu(body.bn1(body.conv1(batch))))
        for part in ("layer1", "layer2", "layer3", "layer4"):
            x = body.get_submodule(part)(x)
    return kept


@pytest.mark.parametrize("frozen", [0, 1, 2, 3])
def test_nothing_is_kept_of_frozen_stages(make_config, small_heads, images, frozen):
    keys = {"MODEL.BACKBONE.FREEZE_CONV_BODY_AT": str(frozen)}
    kept = kept_bytes(build_detection_model(make_config(small_heads | keys)), images)
    parts = list(kept.values())
    assert parts[:frozen] == [0] * frozen
    assert all(each > 0 for each in parts[frozen:])

import io
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import (
    maskrcnn_resnet50_fpn,
    retinanet_resnet50_fpn,
)

from detengine.checkpoint.align import align
from detengine.checkpoint.conversion import Conventions
from detengine.checkpoint.torchvision_names import recognise
from detengine.config.load import load_config
from detengine.modeling.build import build_detection_model
from detengine.modeling.build_retinanet import BOX_WEIGHTS


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
    assert all(
        alignment.matched[name] is tensor
        for name, tensor in state.items()
        if not name.endswith("running_var")
    )
    assert alignment.conversion.conventions == Conventions(bgr255=False, stride_in_1x1=False)


def make_retinanet() -> nn.Module:
    """Ours, of two classes."""
    options = ["CONVENTIONS", "modern", "MODEL.RETINANET_ON", True]
    options += ["MODEL.RETINANET.NUM_CLASSES", 3]
    return build_detection_model(
        load_config(None, [*options, "MODEL.BACKBONE.CONV_BODY", "R-50-FPN-RETINANET"])
    )


def with_background(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """RetinaNet's scores of 9 anchors and 2 classes with a first class more, as torchvision's."""
    for name in ("weight", "bias"):
        rows = state[f"head.classification_head.cls_logits.{name}"].unflatten(0, (9, 2))
        with_first = torch.cat([torch.full_like(rows[:, :1], 7), rows], dim=1)
        state[f"head.classification_head.cls_logits.{name}"] = with_first.flatten(0, 1)
    return state


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod."])
def test_a_state_dict_of_torchvisions_own_model_is_told_from_one_of_ours(wrapper: str) -> None:
    model = make_retinanet()
    torchvisions = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    theirs = nn.ModuleDict({wrapper[:-1] or "x": torchvisions})
    whole: Any = theirs.state_dict() if wrapper else theirs["x"].state_dict()
    content = io.BytesIO()
    torch.save(whole, content)
    content.seek(0)
    alignment = align(model, torch.load(content, weights_only=True))
    assert alignment.conversion.conventions == Conventions(bgr255=False, stride_in_1x1=False)
    name = "head.regression_head.bbox_reg.weight"
    factors = torch.tensor(BOX_WEIGHTS).repeat(9).view(-1, 1, 1, 1)
    torch.testing.assert_close(alignment.matched[name], whole[wrapper + name] * factors)
    name = "head.classification_head.cls_logits.bias"
    assert len(alignment.matched[name]) == 18
    own = align(model, model.state_dict())
    assert own.conversion.conventions is None
    assert all(torch.equal(own.matched[n], tensor) for n, tensor in model.state_dict().items())


@pytest.mark.parametrize("epsilon", [0.0, 1e-5])
def test_the_published_norms_have_no_epsilon(epsilon: float) -> None:
    options = ["MODEL.RPN_ONLY", True, "MODEL.ARITHMETIC.FROZEN_BN_EPSILON", epsilon]
    model = build_detection_model(load_config(None, ["CONVENTIONS", "modern", *options]))
    state = model.state_dict()
    name = "backbone.body.layer2.0.bn1.running_var"
    state[name].uniform_(1e-6, 1e-3)
    matched = align(model, {published(each): tensor for each, tensor in state.items()}).matched
    torch.testing.assert_close(matched[name] + epsilon, state[name], rtol=1e-5, atol=1e-10)


def test_the_shifts_of_a_published_retinanet_are_put_into_our_unit() -> None:
    model = make_retinanet()
    state = with_background({name: t.clone() for name, t in model.state_dict().items()})
    matched = align(model, {published(name): tensor for name, tensor in state.items()}).matched
    name = "head.regression_head.bbox_reg.weight"
    factors = torch.tensor(BOX_WEIGHTS).repeat(9).view(-1, 1, 1, 1)
    torch.testing.assert_close(matched[name], state[name] * factors)
    name = "head.classification_head.cls_logits.weight"
    assert torch.equal(matched[name], model.state_dict()[name])
    torchvisions = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    state = torchvisions.state_dict()
    matched = align(torchvisions, {published(each): t for each, t in state.items()}).matched
    name = "head.regression_head.bbox_reg.weight"
    assert torch.equal(matched[name], state[name])

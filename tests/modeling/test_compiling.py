"""MODEL.COMPILE and MODEL.CHANNELS_LAST change how a model computes, and nothing else about it."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from detengine.modeling.build import build_detection_model
from detengine.modeling.compiling import compile_parts
from detengine.solver.ema import ModelEMA

LAST = {"MODEL.CHANNELS_LAST": "True"}
KEYPOINTS = {
    "MODEL.KEYPOINT_ON": "True",
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_SCALES": "[0.25, 0.125, 0.0625]",
}
RETINANET = {
    "MODEL.RETINANET_ON": "True",
    "MODEL.MASK_ON": "False",
    "MODEL.RETINANET.NUM_CLASSES": "4",
    "MODEL.BACKBONE.CONV_BODY": "R-18-FPN-RETINANET",
}


def build(cfg) -> nn.Module:
    torch.manual_seed(0)
    return build_detection_model(cfg)


def losses_of(model, images, targets):
    torch.manual_seed(1)
    return model.train()(images, targets)


@pytest.fixture(autouse=True)
def _forget_compiled():
    yield
    torch._dynamo.reset()


def test_parts_are_compiled_in_place_and_keep_their_names(make_config, narrow):
    model = build(make_config(narrow))
    names = list(model.state_dict())
    parts = compile_parts(model, backend="eager")
    assert parts == [
        "backbone",
        "rpn.head",
        "roi_heads.box_head",
        "roi_heads.box_predictor",
        "roi_heads.mask_head",
        "roi_heads.mask_predictor",
    ]
    assert list(model.state_dict()) == names
    assert "_compiled_call_impl" not in copy.deepcopy(model).backbone.__dict__


def test_a_retinanet_has_a_backbone_and_a_head_to_compile(make_config, narrow):
    model = build(make_config({k: v for k, v in narrow.items() if "STRIDE" not in k} | RETINANET))
    assert compile_parts(model, backend="eager") == ["backbone", "head"]


def test_a_foreign_model_is_compiled_whole():
    model = nn.Sequential(nn.Linear(2, 2))
    assert compile_parts(model, backend="eager") == []
    assert model._compiled_call_impl is not None


def test_the_key_compiles_and_without_it_nothing_is_compiled(make_config, narrow):
    compiled = build(make_config(narrow | {"MODEL.COMPILE": "True"}))
    assert compiled.backbone._compiled_call_impl is not None
    plain = build(make_config(narrow))
    assert all(module._compiled_call_impl is None for module in plain.modules())


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at it of its own inputs
def test_compiled_parts_give_the_losses_and_gradients_of_the_plain_ones(
    make_config, narrow, images, make_targets
):
    targets, gradients, losses = make_targets(images, [3, 2]), [], []
    for compiles in (False, True):
        model = build(make_config(narrow))
        if compiles:
            compile_parts(model, backend="aot_eager")
        losses.append(losses_of(model, images, targets))
        sum(losses[-1].values()).backward()
        gradients.append([each.grad for each in model.parameters()])
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("keys", "is_last"),
    [
        ({}, False),
        ({"DTYPE": "bfloat16"}, True),
        ({"DTYPE": "float16"}, True),
        ({"DTYPE": "bfloat16", "MODEL.CHANNELS_LAST": "False"}, False),
        (LAST, True),
    ],
)
def test_weights_are_channels_last_under_16_bits_or_where_it_is_said(
    make_config, narrow, keys, is_last
):
    weight = build(make_config(narrow | keys)).backbone.body.layer2[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) is is_last
    assert weight.is_contiguous() is not is_last


@pytest.mark.parametrize("family", [{}, KEYPOINTS, RETINANET])
def test_channels_last_differs_in_rounding_only(make_config, narrow, images, make_targets, family):
    if "MODEL.RETINANET_ON" in family:
        narrow = {k: v for k, v in narrow.items() if "STRIDE" not in k}
    targets = make_targets(images, [3, 2])
    for target in targets:
        middle = target["boxes"].view(-1, 2, 2).mean(dim=1, keepdim=True)
        target["keypoints"] = torch.nn.functional.pad(middle, (0, 1), value=1).expand(-1, 17, 3)
    plain, last = (build(make_config(narrow | family | keys)) for keys in ({}, LAST))
    last.load_state_dict(plain.state_dict())
    assert last.backbone.body.layer2[0].conv1.weight.is_contiguous() is False
    torch.testing.assert_close(
        losses_of(last, images, targets), losses_of(plain, images, targets), rtol=1e-4, atol=1e-5
    )


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at it of its own inputs
def test_averages_and_saved_weights_of_a_compiled_model_are_those_of_a_plain_one(
    make_config, narrow, images, make_targets
):
    model = build(make_config(narrow | {"MODEL.MASK_ON": "False"}))
    compile_parts(model, backend="aot_eager")
    optimizer, ema = torch.optim.SGD(model.parameters(), lr=1e-3), ModelEMA(model, 0.5)
    for _ in range(2):
        sum(losses_of(model, images, make_targets(images, [3, 2])).values()).backward()
        optimizer.step()
        ema.update()
    plain = build(make_config(narrow | {"MODEL.MASK_ON": "False"}))
    for applied in (nullcontext(), ema.applied()):
        with applied, torch.no_grad():
            plain.load_state_dict(model.state_dict())
            found, expected = (each.eval()(images) for each in (model, plain))
        torch.testing.assert_close(found, expected)

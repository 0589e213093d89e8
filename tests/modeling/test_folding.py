"""MODEL.FOLD_FROZEN_BN: frozen batch norm in the convolutions' weights."""

import copy

import pytest
import torch
from torchvision.ops import FrozenBatchNorm2d

from detengine.modeling.build import build_detection_model
from detengine.modeling.folding import FoldingConvolution, fold_frozen_norms

FOLDED, KEPT = {"MODEL.FOLD_FROZEN_BN": "True"}, {"MODEL.FOLD_FROZEN_BN": "False"}


def build(cfg):
    """With norms that do something."""
    torch.manual_seed(0)
    model = build_detection_model(cfg)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            for buffer in (module.weight, module.running_var):
                buffer.uniform_(0.2, 0.6)
            for buffer in (module.bias, module.running_mean):
                buffer.uniform_(-0.2, 0.2)
    return model


@pytest.fixture(params=["R-18-FPN", "R-50-FPN"])
def keys(request, small_heads):
    return small_heads | {
        "MODEL.BACKBONE.CONV_BODY": request.param,
        "MODEL.FPN.NORM": "FrozenBN",
        "MODEL.RESNETS.STEM_OUT_CHANNELS": "16",
        "MODEL.RESNETS.RES2_OUT_CHANNELS": "64",
    }


def features_and_gradients(model, images):
    batch, _ = model.preprocess(images)
    features = model.backbone.double()(batch.double())
    sum(each.square().mean() for each in features).backward()
    return features, {name: each.grad for name, each in model.backbone.named_parameters()}


def test_features_and_gradients_are_the_same_to_rounding(make_config, keys, images):
    plain, folded = build(make_config(keys)), build(make_config(keys | FOLDED))
    folded.load_state_dict(plain.state_dict())
    assert list(folded.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(
        features_and_gradients(folded, images),
        features_and_gradients(plain, images),
    )


def test_every_norm_is_folded_once(make_config, keys):
    model = build_detection_model(make_config(keys | KEPT))
    norms = sum(isinstance(each, FrozenBatchNorm2d) for each in model.modules())
    assert fold_frozen_norms(model) == norms > 20
    assert fold_frozen_norms(model) == 0


def test_under_autocast_the_features_stay_in_16_bits(make_config, keys, images):
    dtypes = []
    for choice in (KEPT, {}):
        model = build(make_config(keys | choice | {"DTYPE": "bfloat16"}))
        with torch.autocast("cpu", torch.bfloat16):
            dtypes.append(model.backbone.body(model.preprocess(images)[0])[0].dtype)
    assert dtypes == [torch.float32, torch.bfloat16]


def test_a_copy_folds_its_own_norms(make_config, keys, images):
    model = build(make_config(keys | FOLDED))
    twin = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.weight.zero_()
    assert not torch.equal(*(m.backbone(m.preprocess(images)[0])[0] for m in (model, twin)))


def test_in_float32_nothing_is_folded_by_itself(make_config, keys):
    model = build_detection_model(make_config(keys))
    assert not any(isinstance(each, FoldingConvolution) for each in model.modules())

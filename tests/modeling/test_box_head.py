import pytest
import torch
from torch import nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead

from detengine.modeling.box_head import (
    BoxPredictor,
    initialise_as_caffe2,
    initialise_as_torchvision,
    make_conv_head,
    make_fc_head,
)


def group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(4, channels)


def test_the_fully_connected_head_is_torchvisions() -> None:
    ours, theirs = make_fc_head(8 * 7 * 7, 16), TwoMLPHead(8 * 7 * 7, 16)
    ours.load_state_dict(theirs.state_dict())
    pooled = torch.randn(3, 8, 7, 7)
    assert torch.equal(ours(pooled), theirs(pooled))


@pytest.mark.parametrize("norm_layer", [None, group_norm])
def test_the_convolutional_head_has_the_names_and_the_numbers_of_torchvisions(norm_layer) -> None:
    ours = make_conv_head(8, 7, (16, 16), 12, norm_layer=norm_layer)
    theirs = FastRCNNConvFCHead((8, 7, 7), [16, 16], [12], norm_layer=norm_layer)
    ours.load_state_dict(theirs.state_dict())
    pooled = torch.randn(3, 8, 7, 7)
    assert torch.equal(ours(pooled), theirs(pooled))


def test_dilated_convolutions_keep_the_size_of_their_maps() -> None:
    head = make_conv_head(8, 7, (16,), 12, dilation=2)
    assert head[0][0].dilation == (2, 2)
    assert head(torch.randn(3, 8, 7, 7)).shape == (3, 12)


def test_with_norms_the_fully_connected_layers_have_no_bias() -> None:
    head = make_fc_head(8 * 7 * 7, 16, group_norm)
    names = set(head.state_dict())
    assert names == {f"fc{i}.{part}" for i in (6, 7) for part in ("0.weight", "1.weight", "1.bias")}
    assert head(torch.randn(3, 8, 7, 7)).shape == (3, 16)


def test_maps_are_averaged_before_the_predictor() -> None:
    predictor = BoxPredictor(8, classes=5, box_classes=2)
    maps = torch.randn(3, 8, 7, 7)
    logits, deltas = predictor(maps)
    assert (logits.shape, deltas.shape) == ((3, 5), (3, 8))
    assert torch.equal(logits, predictor(maps.mean(dim=(2, 3)))[0])


def test_torchvisions_first_values_of_the_convolutions_are_hes_by_fan_out() -> None:
    head = make_conv_head(8, 7, (64, 64), 32)
    initialise_as_torchvision(head)
    theirs = FastRCNNConvFCHead((8, 7, 7), [64, 64], [32])
    for convolution in (head[0][0], head[1][0], theirs[0][0], theirs[1][0]):
        spread = convolution.weight.std().item()
        assert spread == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
        assert not convolution.bias.any()


def test_the_predecessors_first_values_are_narrow_and_without_biases() -> None:
    head, predictor = make_conv_head(8, 7, (64,), 32), BoxPredictor(32, 50, 50)
    initialise_as_caffe2(head, predictor)
    assert head[0][0].weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert predictor.cls_score.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert predictor.bbox_pred.weight.std().item() == pytest.approx(0.001, rel=0.1)
    biases = [p for m in (head, predictor) for n, p in m.named_parameters() if n.endswith("bias")]
    assert all(not bias.any() for bias in biases)

import pickle
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.ops import FrozenBatchNorm2d

from detengine.checkpoint.align import align, load_weights
from detengine.checkpoint.conversion import Conventions
from detengine.checkpoint.detectron2 import convert
from detengine.checkpoint.readers import read_file
from detengine.checkpoint.trunk import CLASSIFIER

families = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).with_name("detectron2_families.py")))
)
detectron2 = families.detectron2
ours_of, theirs_of = families.ours_of, families.theirs_of
RATIOS, RES2, WIDTH = (0.5, 1.0, 2.0), families.RES2, families.WIDTH


def pair(family: str) -> tuple[Any, Any]:
    theirs, ours = theirs_of(family), ours_of(family)
    load_weights(ours, theirs.state_dict(), source="x.pth", strict=True)
    return ours, theirs


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_tensor_of_every_family_has_its_place(family: str) -> None:
    alignment = align(ours_of(family), theirs_of(family).state_dict())
    assert alignment.is_complete, alignment.report()
    assert "detectron2's names" in alignment.report()


@torch.no_grad()
@pytest.mark.parametrize("family", families.FAMILIES)
def test_the_backbone_computes_what_detectron2s_does(family: str) -> None:
    ours, theirs = pair(family)
    images = torch.randn(1, 3, 128, 128)
    features = theirs.backbone(images)
    for our, their in zip(
        ours.backbone(images), features[-1:] if family == "c4" else features, strict=True
    ):
        assert their.std() > 1e-3
        assert_equal(our, their)


def of_anchors(maps: Tensor, shapes: Tensor) -> list[tuple[list[int], Tensor]]:
    """What is predicted for each anchor of a cell, by the anchor's rounded logarithmic shape.

    maps: [1, A * values, H, W]. shapes: float[A, 2], (width, height).
    """
    rows = maps[0].unflatten(0, (len(shapes), -1))
    keys = (shapes.log2() * 4).round().int().tolist()
    return sorted(zip(keys, rows, strict=True), key=lambda each: each[0])


def our_shapes(generator: Any) -> Tensor:
    """Of the coarsest level, whose rounding is least."""
    anchors = generator.get_buffer(f"cell_anchors_{len(generator.strides) - 1}")
    return anchors[:, 2:] - anchors[:, :2]


@torch.no_grad()
@pytest.mark.parametrize(("family", "sizes"), [("c4", (32, 64, 128, 256, 512)), ("rpn", (512,))])
def test_each_anchor_gets_the_proposal_that_detectron2_makes_of_it(
    family: str, sizes: tuple[int, ...]
) -> None:
    ours, theirs = pair(family)
    features = torch.randn(1, 4 * RES2 if family == "c4" else WIDTH, 6, 5)
    levels = len(ours.rpn.anchor_generator.strides)
    our_maps = ours.rpn.head([features] * levels)
    for our_map, their_map in zip(
        our_maps, theirs.proposal_generator.rpn_head(features), strict=True
    ):
        our = of_anchors(our_map[0], our_shapes(ours.rpn.anchor_generator))
        their = of_anchors(their_map, detectron2.cell_anchors(sizes, RATIOS))
        assert len(their) == 3 * len(sizes)
        for (our_shape, our_values), (their_shape, their_values) in zip(our, their, strict=True):
            assert our_shape == their_shape
            assert_equal(our_values, their_values)


@torch.no_grad()
def test_a_retinanets_anchors_get_detectron2s_scores_and_shifts() -> None:
    ours, theirs = pair("retinanet")
    features = torch.randn(1, WIDTH, 6, 5)
    predicted = ours.head([features])
    logits, deltas = theirs.head(features)
    sizes = [2 ** (octave / 3) * 512 for octave in range(3)]
    shapes, our_own = detectron2.cell_anchors(sizes, RATIOS), our_shapes(ours.anchor_generator)

    def as_maps(rows: Tensor) -> Tensor:  # [1, H * W * A, values] -> [1, A * values, H, W]
        return rows.view(1, 6, 5, -1).permute(0, 3, 1, 2)

    our_scores = of_anchors(as_maps(predicted["cls_logits"]), our_own)
    for (our_shape, our), (their_shape, their) in zip(
        our_scores, of_anchors(logits, shapes), strict=True
    ):
        assert our_shape == their_shape
        assert_equal(our, their)
    our_deltas = of_anchors(as_maps(predicted["bbox_regression"]), our_own)
    factors = torch.tensor(ours.selector.box_weights).view(4, 1, 1)
    for (_, our), (_, their) in zip(our_deltas, of_anchors(deltas, shapes), strict=True):
        assert_equal(our / factors, their)  # their weights are 1


@torch.no_grad()
@pytest.mark.parametrize("family", ["faster", "c4", "group norm", "agnostic"])
def test_a_region_gets_detectron2s_scores_with_the_background_first(family: str) -> None:
    ours, theirs = pair(family)
    heads, their_heads = ours.roi_heads, theirs.roi_heads
    regions = torch.randn(2, 4 * RES2, 14, 14) if family == "c4" else torch.randn(2, WIDTH, 7, 7)
    layers = their_heads.res5 if family == "c4" else their_heads.box_head
    their_scores, their_deltas = their_heads.box_predictor(layers(regions))
    scores, deltas = heads.box_predictor(heads.box_head(regions))
    assert_equal(scores[:, 1:], their_scores[:, :-1])
    assert_equal(scores[:, 0], their_scores[:, -1])
    assert_equal(deltas[:, 4:], their_deltas)
    assert not deltas[:, :4].any()


@torch.no_grad()
@pytest.mark.parametrize("family", ["mask", "c4", "group norm"])
def test_a_region_gets_detectron2s_masks(family: str) -> None:
    ours, theirs = pair(family)
    regions = torch.randn(2, 8 * RES2 if family == "c4" else WIDTH, 14, 14)
    layers = nn.Identity() if family == "c4" else ours.roi_heads.mask_head
    masks = ours.roi_heads.mask_predictor(layers(regions))
    assert_equal(masks[:, 1:], theirs.roi_heads.mask_head(regions))
    assert not masks[:, 0].any()


@torch.no_grad()
def test_a_region_gets_detectron2s_keypoints() -> None:
    ours, theirs = pair("keypoint")
    regions = torch.randn(2, WIDTH, 14, 14)
    maps = ours.roi_heads.keypoint_predictor(ours.roi_heads.keypoint_head(regions))
    assert_equal(maps, theirs.roi_heads.keypoint_head(regions))


def arrays(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in state.items()}


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_both_kinds_of_file_are_read(tmp_path: Path, suffix: str) -> None:
    state = theirs_of("faster").state_dict()
    path = tmp_path / f"model_final{suffix}"
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": arrays(state), "__author__": "Detectron2"}))
    else:
        torch.save({"model": state, "iteration": 89999, "optimizer": {"state": {}}}, path)
    assert align(ours_of("faster"), read_file(path)["model"]).is_complete


def test_buffers_that_the_configuration_makes_are_set_aside() -> None:
    state = theirs_of("faster").state_dict()
    names = ["pixel_mean", "pixel_std", "proposal_generator.anchor_generator.cell_anchors.0"]
    extra = {name: torch.ones(3) for name in names}
    alignment = align(ours_of("faster"), state | extra)
    assert alignment.is_complete
    assert list(alignment.conversion.set_aside) == names


def test_what_detectron2_has_besides_is_named_as_unused() -> None:
    state = theirs_of("faster").state_dict()
    extra = ["sem_seg_head.p2.0.weight", "roi_heads.box_head.0.fc1.bias"]
    state |= dict.fromkeys(extra, torch.ones(1))
    assert align(ours_of("faster"), state).unexpected == extra


def torchvision_trunk() -> dict[str, Tensor]:
    """torchvision's R-50 as tools/convert-torchvision-to-d2.py names it."""
    trunk = resnet50(weights=None).state_dict()
    renamed = {}
    for name, tensor in trunk.items():
        new = name if "layer" in name else f"stem.{name}"
        for stage in range(1, 5):
            new = new.replace(f"layer{stage}", f"res{stage + 1}")
        for number in range(1, 4):
            new = new.replace(f"bn{number}", f"conv{number}.norm")
        new = new.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        renamed[new] = tensor
    return renamed


def body_model(epsilon: float) -> nn.Module:
    body = resnet50(weights=None, norm_layer=lambda c: FrozenBatchNorm2d(c, eps=epsilon))
    del body.fc
    return detectron2.container(backbone=detectron2.container(body=body))


def test_an_imagenet_trunk_of_torchvision_brings_its_conventions() -> None:
    trunk = torchvision_trunk()
    assert "stem.conv1.norm.running_var" in trunk
    alignment = align(body_model(1e-5), trunk)
    assert alignment.is_complete
    assert alignment.conversion.set_aside == dict.fromkeys(
        ["stem.fc.weight", "stem.fc.bias"], CLASSIFIER
    )
    assert alignment.conversion.conventions == Conventions(bgr255=False, stride_in_1x1=False)


def test_frozen_norms_of_another_epsilon_take_it_into_the_variance() -> None:
    trunk = torchvision_trunk()
    trunk["res2.0.conv1.norm.running_var"].uniform_(0, 2e-5)
    alignment = align(body_model(0.0), trunk)
    name = "backbone.body.layer1.0.bn1.running_var"
    expected = trunk["res2.0.conv1.norm.running_var"].double() + 1e-5
    torch.testing.assert_close(alignment.matched[name].double(), expected, rtol=1e-6, atol=0)
    assert align(body_model(1e-5), trunk).matched[name] is trunk["res2.0.conv1.norm.running_var"]


@pytest.mark.parametrize(
    ("family", "mean", "bgr255"),
    [
        ("faster", None, None),
        ("faster", [103.53, 116.28, 123.675], True),
        ("faster", [123.675, 116.28, 103.53], False),
        ("faster", [127.5, 127.5, 127.5], None),
    ],
)
def test_the_mean_in_the_file_tells_the_order_of_the_channels(
    family: str, mean: list[float] | None, bgr255: bool | None
) -> None:
    state = theirs_of(family).state_dict()
    if mean is not None:
        state["pixel_mean"] = torch.tensor(mean).view(3, 1, 1)
    conventions = align(ours_of(family), state).conversion.conventions
    assert conventions == Conventions(bgr255=bgr255, stride_in_1x1=None)


@pytest.mark.parametrize(("family", "stride_in_1x1"), [("faster", True), ("resnext", False)])
def test_folded_norms_tell_that_the_weights_began_as_caffe2s(
    family: str, stride_in_1x1: bool
) -> None:
    state = theirs_of(family).state_dict()
    for name in state:
        if name.endswith("running_mean"):
            state[name].zero_()
    conventions = align(ours_of(family), state).conversion.conventions
    assert conventions == Conventions(bgr255=True, stride_in_1x1=stride_in_1x1)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("retinanet", "mask"), ("faster", "retinanet"), ("faster", "c4"), ("c4", "faster")],
)
def test_weights_of_another_kind_of_model_are_refused(theirs: str, ours: str) -> None:
    message = r"x\.pth are not this model's(?s:.*)missing in the file(?s:.*)unknown to the model"
    with pytest.raises(ValueError, match=message):
        load_weights(ours_of(ours), theirs_of(theirs).state_dict(), source="x.pth", strict=True)


def test_norms_between_a_retinanets_convolutions_shift_no_convolution() -> None:
    names = [f"head.cls_subnet.{index}.weight" for index in (0, 1, 3, 4, 6, 7, 9, 10)]
    places = convert({name: torch.zeros(1) for name in names}, nn.Module()).sources
    of_layer = "head.classification_head.conv.{}.{}.weight"
    expected = [of_layer.format(layer, part) for layer in range(4) for part in (0, 1)]
    assert places == dict(zip(expected, names, strict=True))


def test_an_rpn_of_several_convolutions_keeps_their_order() -> None:
    names = [f"proposal_generator.rpn_head.conv.conv{index}.weight" for index in (0, 1)]
    places = convert({name: torch.zeros(1) for name in names}, nn.Module()).sources
    assert places == {f"rpn.head.conv.{index}.0.weight": names[index] for index in (0, 1)}

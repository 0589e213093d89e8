import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from detengine.checkpoint.align import load_weights
from detengine.checkpoint.checkpointer import Checkpointer
from detengine.checkpoint.maskrcnn_benchmark import name_map, recognise

ModelOf = Callable[..., nn.Module]

GOLDEN = Path(__file__).parents[2] / "../shared/golden"
RECORDED = sorted(GOLDEN.glob("*/weights.pth"))
needs_recordings = pytest.mark.skipif(not RECORDED, reason="../shared is absent")
OURS = ("backbone.", "rpn.", "roi_heads.", "head.")
PREDECESSORS = (".stem.", "fpn_inner", "fpn_layer", "top_blocks", ".feature_extractor.", "_tower")
BOX = "roi_heads.box.feature_extractor"
MASK = "roi_heads.mask.feature_extractor"

PAIRS = {
    "backbone.body.stem.bn1.running_var": "backbone.body.bn1.running_var",
    "backbone.body.layer2.0.downsample.1.bias": "backbone.body.layer2.0.downsample.1.bias",
    "backbone.body.layer4.1.conv2.offset.weight": "backbone.body.layer4.1.conv2.offset.weight",
    "backbone.body.first.conv.weight": "backbone.body.first.conv.weight",
    "backbone.body.stages.xif4_2.pwl.bn.bias": "backbone.body.stages.xif4_2.pwl.bn.bias",
    "backbone.fpn.fpn_inner1.bias": "backbone.fpn.inner_blocks.0.0.bias",
    "backbone.fpn.fpn_layer4.weight": "backbone.fpn.layer_blocks.3.0.weight",
    "rpn.head.conv.weight": "rpn.head.conv.0.0.weight",
    "rpn.head.cls_logits.bias": "rpn.head.cls_logits.bias",
    "rpn.head.0.head.xif5_0.dw.conv.weight": "rpn.head.0.head.xif5_0.dw.conv.weight",
    f"{BOX}.fc6.weight": "roi_heads.box_head.fc6.weight",
    f"{BOX}.fc7.bias": "roi_heads.box_head.fc7.bias",
    f"{BOX}.head.layer4.0.bn1.weight": "roi_heads.box_head.layer4.0.bn1.weight",
    f"{BOX}.head.blocks.xif4_0.pw.conv.weight": "roi_heads.box_head.blocks.xif4_0.pw.conv.weight",
    f"{BOX}.head.last.conv.weight": "roi_heads.box_head.last.conv.weight",
    "roi_heads.box.predictor.bbox_pred.weight": "roi_heads.box_predictor.bbox_pred.weight",
    f"{MASK}.mask_fcn4.weight": "roi_heads.mask_head.3.0.weight",
    f"{MASK}.mask_fcn1.0.weight": "roi_heads.mask_head.0.0.weight",
    f"{MASK}.mask_fcn1.1.bias": "roi_heads.mask_head.0.1.bias",
    f"{MASK}.head.blocks.xif4_0.pw.conv.weight": "roi_heads.mask_head.blocks.xif4_0.pw.conv.weight",
    "roi_heads.mask.predictor.conv5_mask.bias": "roi_heads.mask_predictor.conv5_mask.bias",
    "roi_heads.keypoint.feature_extractor.conv_fcn8.bias": "roi_heads.keypoint_head.14.bias",
    "roi_heads.keypoint.predictor.kps_score_lowres.weight": (
        "roi_heads.keypoint_predictor.kps_score_lowres.weight"
    ),
}


def test_each_name_of_the_predecessor_has_its_place() -> None:
    assert name_map(list(PAIRS)) == PAIRS


def test_a_norm_in_a_sequence_keeps_its_place_behind_the_layer() -> None:
    names = [f"{BOX}.fc6.0.weight", f"{BOX}.fc6.1.bias", f"{BOX}.fc7.1.weight"]
    names += ["backbone.fpn.fpn_inner2.0.weight", "backbone.fpn.fpn_inner1.1.bias"]
    assert list(name_map(names).values()) == [
        "roi_heads.box_head.fc6.0.weight",
        "roi_heads.box_head.fc6.1.bias",
        "roi_heads.box_head.fc7.1.weight",
        "backbone.fpn.inner_blocks.1.0.weight",
        "backbone.fpn.inner_blocks.0.1.bias",
    ]


@pytest.mark.parametrize(
    ("indices", "layers", "linear"),
    [
        ([0], ["0.0"], 2),
        ([0, 2, 4, 6], ["0.0", "1.0", "2.0", "3.0"], 5),
        ([0, 1], ["0.0", "0.1"], 2),
        ([0, 1, 3, 4], ["0.0", "0.1", "1.0", "1.1"], 3),
        ([], [], 1),
    ],
)
def test_stacked_convolutions_count_with_their_norm_as_one_layer(
    indices: list[int], layers: list[str], linear: int
) -> None:
    names = [f"{BOX}.xconvs.{index}.weight" for index in indices]
    mapped = name_map([*names, f"{BOX}.fc6.bias"])
    assert list(mapped.values()) == [
        *(f"roi_heads.box_head.{layer}.weight" for layer in layers),
        f"roi_heads.box_head.{linear}.bias",
    ]


@pytest.mark.parametrize("first_level", [1, 2])
def test_the_pyramids_finest_block_is_block_0(first_level: int) -> None:
    names = [f"backbone.fpn.fpn_inner{level}.weight" for level in range(first_level, 5)]
    assert list(name_map(names).values()) == [
        f"backbone.fpn.inner_blocks.{index}.0.weight" for index in range(len(names))
    ]


def test_the_rpn_of_a_retinanet_is_its_head() -> None:
    assert name_map(
        [
            "rpn.head.cls_tower.0.weight",
            "rpn.head.cls_tower.6.bias",
            "rpn.head.bbox_tower.2.weight",
            "rpn.head.cls_logits.weight",
            "rpn.head.bbox_pred.bias",
            "backbone.fpn.top_blocks.p6.weight",
        ]
    ) == {
        "rpn.head.cls_tower.0.weight": "head.classification_head.conv.0.0.weight",
        "rpn.head.cls_tower.6.bias": "head.classification_head.conv.3.0.bias",
        "rpn.head.bbox_tower.2.weight": "head.regression_head.conv.1.0.weight",
        "rpn.head.cls_logits.weight": "head.classification_head.cls_logits.weight",
        "rpn.head.bbox_pred.bias": "head.regression_head.bbox_reg.bias",
        "backbone.fpn.top_blocks.p6.weight": "backbone.fpn.extra_blocks.p6.weight",
    }


def recorded_names() -> dict[str, list[str]]:
    """By model, the names of its state dict."""
    tables = json.loads((GOLDEN / "small/optimizer_table.json").read_text()) if RECORDED else {}
    found = {f"table {model}": list(t["state_dict_keys_shapes"]) for model, t in tables.items()}
    for path in RECORDED:
        found[path.parent.name] = list(torch.load(path, weights_only=True))
    return found


@needs_recordings
@pytest.mark.parametrize("model", recorded_names())
def test_every_recorded_name_has_a_place_of_its_own(model: str) -> None:
    names = [name for name in recorded_names()[model] if "cell_anchors" not in name]
    mapped = name_map(names)
    assert recognise(dict.fromkeys(names, torch.zeros(1)))
    assert len(set(mapped.values())) == len(names)
    assert all(ours.startswith(OURS) for ours in mapped.values())
    assert not [ours for ours in mapped.values() if any(part in ours for part in PREDECESSORS)]


def small_weights() -> dict[str, Tensor]:
    return {
        "backbone.body.stem.conv1.weight": torch.rand(2, 3, 7, 7),
        "rpn.head.conv.weight": torch.rand(2, 2, 3, 3),
        f"{BOX}.fc6.weight": torch.rand(4, 6),
        f"{BOX}.fc7.weight": torch.rand(4, 4),
    }


def in_our_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {ours: weights[theirs] for theirs, ours in name_map(list(weights)).items()}


def test_a_file_of_the_predecessors_training_initialises_and_its_iteration_stays_out(
    model_of: ModelOf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    weights = small_weights()
    data = {
        "model": {f"module.{name}": tensor for name, tensor in weights.items()},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(1)}}, "param_groups": []},
        "scheduler": {"milestones": (60000, 80000), "last_epoch": 90000},
        "iteration": 90000,
    }
    torch.save(data, tmp_path / "model_final.pth")
    model = model_of(in_our_names(weights))
    checkpointer = Checkpointer(model, save_dir=tmp_path)
    checkpointer.load(tmp_path / "model_final.pth")
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in in_our_names(weights).items())
    assert "4 tensors match (the file has maskrcnn-benchmark's names)" in caplog.text
    checkpointer.tag_last_checkpoint("model_final.pth")
    with pytest.raises(ValueError, match=r"not written by detengine.*name it as MODEL\.WEIGHT"):
        checkpointer.resume()


def test_what_has_no_place_is_named_as_the_file_names_it(model_of: ModelOf) -> None:
    weights = small_weights()
    model = model_of(in_our_names(weights))
    weights["roi_heads.mask.predictor.conv5_mask.weight"] = torch.rand(1)
    weights["backbone.body.stem.conv9.weight"] = torch.rand(1)
    alignment = load_weights(model, weights, source="x.pth", strict=False)
    assert alignment.unexpected == list(weights)[-2:]
    with pytest.raises(ValueError, match=r"unknown to the model:\n  roi_heads\.mask\.predictor"):
        load_weights(model, weights, source="x.pth", strict=True)


def test_two_tensors_for_one_place_are_not_both_used(model_of: ModelOf) -> None:
    weights = small_weights()
    model = model_of(in_our_names(weights))
    weights["backbone.body.conv1.weight"] = torch.rand(2, 3, 7, 7)
    alignment = load_weights(model, weights, source="x.pth", strict=False)
    assert alignment.unexpected == ["backbone.body.stem.conv1.weight"]


def test_a_model_with_such_names_of_its_own_keeps_them(model_of: ModelOf) -> None:
    weights = small_weights()
    model = model_of(weights)
    assert load_weights(model, weights, source="x.pth", strict=True).report() == "4 tensors match"


def extractors(second: float = 1.0) -> dict[str, Tensor]:
    """A C4 model's last stage as the predecessor saves it, once for each head."""
    name = "feature_extractor.head.layer4.0.conv1.weight"
    return {
        f"roi_heads.box.{name}": torch.ones(2, 2, 1, 1),
        f"roi_heads.mask.{name}": torch.full((2, 2, 1, 1), second),
    }


def test_the_second_copy_of_a_shared_extractor_is_set_aside(model_of: ModelOf) -> None:
    weights = extractors()
    model = model_of({"roi_heads.box_head.layer4.0.conv1.weight": torch.ones(2, 2, 1, 1)})
    alignment = load_weights(model, weights, source="x.pth", strict=True)
    assert alignment.is_complete
    assert list(alignment.conversion.set_aside) == list(weights)[1:]
    assert "set aside (the box head's extractor, which this model's heads share)" in (
        alignment.report()
    )


def test_two_extractors_that_differ_are_no_shared_one(model_of: ModelOf) -> None:
    model = model_of({"roi_heads.box_head.layer4.0.conv1.weight": torch.ones(2, 2, 1, 1)})
    with pytest.raises(ValueError, match=r"share one extractor; set SHARE_BOX_FEATURE_EXTRACTOR"):
        load_weights(model, extractors(second=2.0), source="x.pth", strict=True)


def test_a_mask_head_with_an_extractor_of_its_own_takes_it(model_of: ModelOf) -> None:
    weights = extractors(second=2.0)
    model = model_of(in_our_names(weights))
    assert load_weights(model, weights, source="x.pth", strict=True).is_complete
    assert model.state_dict()["roi_heads.mask_head.layer4.0.conv1.weight"].unique() == 2.0


ANCHORS = torch.tensor([[-22.0, -10.0, 25.0, 13.0], [-14.0, -14.0, 17.0, 17.0]])
ANCHOR_NAME = "rpn.anchor_generator.cell_anchors.0"


def test_equal_anchors_are_set_aside(model_of: ModelOf) -> None:
    weights = small_weights()
    model = model_of(
        in_our_names(weights), anchors={"rpn.anchor_generator.cell_anchors_0": ANCHORS}
    )
    weights[ANCHOR_NAME] = ANCHORS + 1e-4
    alignment = load_weights(model, weights, source="x.pth", strict=True)
    assert list(alignment.conversion.set_aside) == [ANCHOR_NAME]
    assert "set aside (anchors, which the model makes" in alignment.report()


@pytest.mark.parametrize(
    ("prefix", "keys"),
    [
        ("rpn.", "MODEL.RPN.ANCHOR_SIZES, ASPECT_RATIOS and ANCHOR_STRIDE"),
        ("", "MODEL.RETINANET.ANCHOR_SIZES, ASPECT_RATIOS, ANCHOR_STRIDES"),
    ],
)
@pytest.mark.parametrize("of_file", [ANCHORS + 1, ANCHORS[:1], None])
def test_other_anchors_are_an_error_that_names_the_keys(
    model_of: ModelOf, prefix: str, keys: str, of_file: Tensor | None
) -> None:
    weights = small_weights()
    names = [f"{prefix}anchor_generator.cell_anchors_{level}" for level in range(2)]
    model = model_of(in_our_names(weights), anchors=dict.fromkeys(names, ANCHORS))
    weights[ANCHOR_NAME] = ANCHORS
    if of_file is not None:
        weights["rpn.anchor_generator.cell_anchors.1"] = of_file
    message = rf"trained for other anchors: on level 1 .* the model 2 .*; set {keys}"
    with pytest.raises(ValueError, match=message):
        load_weights(model, weights, source="x.pth", strict=True)
    assert "other anchors" in load_weights(model, weights, source="x", strict=False).report()


def test_anchors_that_no_buffer_holds_are_named_as_unused(model_of: ModelOf) -> None:
    weights = small_weights()
    model = model_of(in_our_names(weights))
    alignment = load_weights(model, weights | {ANCHOR_NAME: ANCHORS}, source="x", strict=True)
    assert list(alignment.conversion.set_aside) == [ANCHOR_NAME]

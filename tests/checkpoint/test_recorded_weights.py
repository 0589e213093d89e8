"""The predecessor's weights in our models, through the public way only."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detengine.checkpoint.checkpointer import DetectronCheckpointer
from detengine.checkpoint.maskrcnn_benchmark import name_map
from detengine.config.load import load_config
from detengine.modeling.build import build_detection_model

GOLDEN = Path(__file__).parents[2] / "../shared/golden"
RECORDED = [path.parent.name for path in sorted(GOLDEN.glob("*/weights.pth"))]
pytestmark = pytest.mark.skipif(not RECORDED, reason="../shared is absent")
NARROW = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 32),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.ROI_BOX_HEAD.NUM_CLASSES", 5),
    *("MODEL.WEIGHT", "", "MODEL.DEVICE", "cpu"),
]


def build(config: str, overrides: list[Any]) -> tuple[nn.Module, DetectronCheckpointer]:
    cfg = load_config(GOLDEN / config, overrides)
    model = build_detection_model(cfg)
    return model, DetectronCheckpointer(cfg, model)


def raise_unless_equal(model: nn.Module, recorded: dict[str, Tensor], aside: str) -> None:
    """aside: a part of the names that have no place in the model."""
    names = name_map([name for name in recorded if "cell_anchors" not in name])
    state = model.state_dict()
    places = {ours: theirs for theirs, ours in names.items() if not aside or aside not in theirs}
    assert state.keys() == places.keys()
    unequal = [ours for ours in places if not torch.equal(state[ours], recorded[places[ours]])]
    assert unequal == []


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_weights_fill_the_model_of_their_configuration(name: str) -> None:
    recording = json.loads((GOLDEN / name / "overrides.json").read_text())
    model, checkpointer = build(recording["upstream_config"], recording["overrides"])
    path = GOLDEN / name / "weights.pth"
    checkpointer.load(path)
    raise_unless_equal(model, torch.load(path, weights_only=True), aside="")


def test_the_recorded_caffe2_pickle_fills_the_model_of_its_configuration() -> None:
    recording = json.loads((GOLDEN / "c2_pkl/conversion.json").read_text())
    model, checkpointer = build(recording["upstream_config"], recording["overrides"])
    checkpointer.load(GOLDEN / "c2_pkl/model_c2.pkl")
    recorded = torch.load(GOLDEN / "c2_pkl/loaded_state_dict.pth", weights_only=True)
    raise_unless_equal(model, recorded, aside="")


def test_a_c4_models_heads_share_what_the_predecessor_saves_twice(tmp_path: Path) -> None:
    model, checkpointer = build(
        "configs/e2e_mask_rcnn_R_50_C4_1x.yaml",
        [
            *NARROW,
            *("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 128),
            *("MODEL.ROI_MASK_HEAD.CONV_LAYERS", (16, 16, 16, 16)),
        ],
    )
    table = json.loads((GOLDEN / "small/optimizer_table.json").read_text())
    shapes = table["e2e_mask_rcnn_R_50_C4_1x"]["state_dict_keys_shapes"]
    weights = {name: torch.rand(shape) for name, shape in shapes.items()}
    for name in weights:
        if name.startswith("roi_heads.mask.feature_extractor."):
            weights[name] = weights[name.replace("roi_heads.mask.", "roi_heads.box.")]
    anchors = dict(model.named_buffers())["rpn.anchor_generator.cell_anchors_0"]
    weights["rpn.anchor_generator.cell_anchors.0"] = anchors
    torch.save({"model": weights}, tmp_path / "model_final.pth")
    checkpointer.load(tmp_path / "model_final.pth")
    raise_unless_equal(model, weights, aside="roi_heads.mask.feature_extractor.")


def test_weights_for_other_anchors_are_an_error_that_names_the_key() -> None:
    recording = json.loads((GOLDEN / "rpn_R_50_FPN_1x/overrides.json").read_text())
    sizes = ["MODEL.RPN.ANCHOR_SIZES", (32, 64, 128, 256, 500)]
    _, checkpointer = build(recording["upstream_config"], [*recording["overrides"], *sizes])
    with pytest.raises(ValueError, match=r"other anchors: on level 4 .* set MODEL\.RPN\.ANCH"):
        checkpointer.load(GOLDEN / "rpn_R_50_FPN_1x/weights.pth")

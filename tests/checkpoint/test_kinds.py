import json
from pathlib import Path

import pytest
import torch

from detengine.checkpoint.align import load_weights
from detengine.checkpoint.kinds import kind_conflict, kind_of
from detengine.config.load import load_config
from detengine.modeling.build import build_detection_model

GOLDEN = Path(__file__).parents[2] / "../shared/golden"
RETINANET = "a RetinaNet over the feature pyramid of a ResNet"
FPN = "an R-CNN over the feature pyramid of a ResNet"
C4 = "an R-CNN over one map of a ResNet"
FBNET = "an R-CNN over one map of an FBNet"


@pytest.mark.skipif(not GOLDEN.exists(), reason="../shared is absent")
@pytest.mark.parametrize(
    ("file", "model", "kinds"),
    [
        ("retinanet_R-50-FPN_P5_1x", "e2e_mask_rcnn_R_50_FPN_1x", (RETINANET, FPN)),
        ("e2e_mask_rcnn_R_50_FPN_1x", "retinanet_R-50-FPN_P5_1x", (FPN, RETINANET)),
        ("e2e_mask_rcnn_R_50_FPN_1x", "e2e_faster_rcnn_R_50_C4_1x", (FPN, C4)),
        ("e2e_faster_rcnn_R_50_C4_1x", "e2e_mask_rcnn_R_50_FPN_1x", (C4, FPN)),
        ("e2e_faster_rcnn_fbnet", "e2e_mask_rcnn_R_50_FPN_1x", (FBNET, FPN)),
    ],
)
def test_weights_of_another_kind_of_detector_are_called_so(
    file: str, model: str, kinds: tuple[str, str]
) -> None:
    recording = json.loads((GOLDEN / model / "overrides.json").read_text())
    cfg = load_config(GOLDEN / recording["upstream_config"], recording["overrides"])
    weights = torch.load(GOLDEN / file / "weights.pth", weights_only=True)
    message = f"the weights are of {kinds[0]}, but the model is {kinds[1]}\n"
    with pytest.raises(ValueError, match=message):
        load_weights(build_detection_model(cfg), weights, source="weights.pth", strict=True)


def test_a_part_of_a_detector_and_further_heads_make_no_other_kind() -> None:
    body, rpn = "backbone.body.layer1.0.conv1.weight", "rpn.head.cls_logits.weight"
    whole = [body, "backbone.fpn.inner_blocks.0.0.weight", rpn]
    assert kind_of(whole) == FPN
    for part in ([body], [rpn], [*whole, "roi_heads.box_predictor.cls_score.weight"]):
        assert kind_conflict(part, whole) == ""
    assert kind_conflict([body, rpn], whole) != ""

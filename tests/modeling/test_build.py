import sys

import pytest
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn

from detengine.config.load import load_config
from detengine.modeling.build import build_detection_model

MASK_RCNN = {"MODEL.MASK_ON": "True", "MODEL.ROI_BOX_HEAD.NUM_CLASSES": "91"}


def test_torchvisions_weights_load_strictly_into_the_modern_defaults_and_go_back(make_config):
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    ours = build_detection_model(make_config(MASK_RCNN))
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    frozen = {name for name, p in ours.named_parameters() if not p.requires_grad}
    first = ("backbone.body.conv1", "backbone.body.layer1")
    assert frozen == {name for name, _ in ours.named_parameters() if name.startswith(first)}


def test_a_builder_of_the_users_is_adapted(make_config, tmp_path, monkeypatch, images):
    (tmp_path / "users_detector.py").write_text(
        "from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn\n"
        "def build(cfg):\n"
        "    classes = cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES\n"
        "    return fasterrcnn_mobilenet_v3_large_320_fpn(\n"
        "        weights=None, weights_backbone=None, num_classes=classes)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    overrides = {"MODEL.BUILDER": "users_detector:build", "MODEL.ROI_BOX_HEAD.NUM_CLASSES": "4"}
    model = build_detection_model(make_config(overrides))
    with torch.no_grad():
        assert set(model.eval()(images)[0]) == {"boxes", "scores", "labels"}


@pytest.mark.parametrize(
    ("given", "padded"), [("None", (32, 32)), ("0", (20, 1)), ("32", (32, 32)), ("20", (20, 20))]
)
def test_batches_are_padded_as_the_loaders_option_says_or_for_the_pyramid(
    make_config, narrow, given, padded
):
    levels = {
        "MODEL.RPN.ANCHOR_STRIDE": "[8, 16, 32]",
        "MODEL.ROI_BOX_HEAD.POOLER_SCALES": "[0.125]",
        "MODEL.ROI_MASK_HEAD.POOLER_SCALES": "[0.125]",
        "DATALOADER.SIZE_DIVISIBILITY": given,
    }
    model = build_detection_model(make_config(narrow | levels))
    batch, _ = model.preprocess([torch.zeros(3, 20, 1, dtype=torch.uint8)])
    assert batch.shape == (1, 3, *padded)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({}, r"MODEL\.ROI_BOX_HEAD\.NUM_CLASSES: None.*with the background"),
        ({"MODEL.BACKBONE.CONV_BODY": "R-50-C4"}, "CONV_BODY: 'R-50-C4'.*R-18-FPN, R-34-FPN"),
        ({"MODEL.KEYPOINT_ON": "True"}, r"MODEL\.KEYPOINT_ON: True is not built"),
        ({"MODEL.RETINANET_ON": "True"}, r"MODEL\.RETINANET_ON: True is not built"),
        ({"MODEL.RPN.STRADDLE_THRESH": "0"}, "STRADDLE_THRESH: 0 is not built.*only -1 is"),
        (
            MASK_RCNN | {"MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR": "True"},
            "SHARE_BOX_FEATURE_EXTRACTOR: True is not built",
        ),
        (
            {"MODEL.BACKBONE.NORM": "GN", "MODEL.GROUP_NORM.NUM_GROUPS": "-1"},
            "NUM_GROUPS: -1, but there must be at least 1",
        ),
        ({"MODEL.RPN_ONLY": "True"}, r"MODEL\.RPN_ONLY: True is not built"),
        ({"MODEL.RPN.ANCHOR_STRIDE": "[4, 16]"}, r"ANCHOR_STRIDE: \[4, 16\].* no gap"),
        ({"MODEL.RPN.ANCHOR_STRIDE": "[64]"}, r"ANCHOR_STRIDE: \[64\].* only behind 32"),
        ({"MODEL.RPN.ANCHOR_SIZES": "[32, 64]"}, r"gives 2 sizes for the 5 levels"),
        ({"MODEL.RPN.POST_NMS_TOP_N_TRAIN": "300"}, "set MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN"),
        ({"MODEL.RESNETS.RES2_OUT_CHANNELS": "30"}, "RES2_OUT_CHANNELS: 30 is not a multiple of 4"),
        (
            {"MODEL.BACKBONE.CONV_BODY": "R-18-FPN", "MODEL.RESNETS.WIDTH_PER_GROUP": "32"},
            "R-18-FPN has none.*RES2_OUT_CHANNELS",
        ),
        (
            MASK_RCNN | {"MODEL.ROI_BOX_HEAD.POOLER_SCALES": "[0.25, 0.0625]"},
            r"ROI_BOX_HEAD\.POOLER_SCALES: \[0\.25, 0\.0625\].*pyramid has \[4, 8, 16, 32, 64\]",
        ),
        (MASK_RCNN | {"MODEL.ROI_MASK_HEAD.RESOLUTION": "14"}, "RESOLUTION to twice POOLER"),
    ],
)
def test_a_value_that_fits_nothing_is_an_error_that_names_its_key(make_config, overrides, message):
    small = {"MODEL.BACKBONE.CONV_BODY": "R-18-FPN"} | overrides
    with pytest.raises(ValueError, match=message):
        build_detection_model(make_config(small))


def test_the_predecessors_conventions_are_refused_by_name():
    with pytest.raises(ValueError, match="CONVENTIONS"):
        build_detection_model(load_config(None))

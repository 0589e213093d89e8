import sys

import pytest
import torch
from torchvision.models.detection import (
    fasterrcnn_resnet50_fpn_v2,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
)

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


V2 = {
    "MODEL.BACKBONE.NORM": "BN",
    "MODEL.FPN.NORM": "BN",
    "MODEL.RPN.NUM_CONVS": "2",
    "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR": "FPNXconv1fcFeatureExtractor",
    "MODEL.ROI_BOX_HEAD.NORM": "BN",
    "MODEL.ROI_BOX_HEAD.NUM_CLASSES": "91",
    "MODEL.ROI_MASK_HEAD.NORM": "BN",
}


@pytest.mark.parametrize(
    ("make_theirs", "has_masks"),
    [(maskrcnn_resnet50_fpn_v2, "True"), (fasterrcnn_resnet50_fpn_v2, "False")],
)
def test_torchvisions_v2_weights_load_strictly_and_go_back(make_config, make_theirs, has_masks):
    with torch.device("meta"):
        theirs = make_theirs(weights=None, weights_backbone=None)
        ours = build_detection_model(make_config(V2 | {"MODEL.MASK_ON": has_masks}))
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())


def norms_of(kind: str, parts: list[str]) -> dict[str, str]:
    return {f"MODEL.{part}.NORM": kind for part in parts}


def test_v2_weights_load_strictly_into_frozen_norms_too(make_config):
    """For batches too small to have statistics of their own."""
    frozen = norms_of("FrozenBN", ["BACKBONE", "FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD"])
    with torch.device("meta"):
        theirs = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
        ours = build_detection_model(make_config(V2 | MASKS | frozen))
    ours.load_state_dict(theirs.state_dict())


def test_norm_gn_builds_what_use_gn_builds(make_config):
    parts = ["FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD"]
    by_switch = {f"MODEL.{part}.USE_GN": "True" for part in parts} | norms_of("None", parts)
    with torch.device("meta"):
        models = [
            build_detection_model(make_config(V2 | MASKS | overrides))
            for overrides in (norms_of("GN", parts), by_switch)
        ]
    assert str(models[0]) == str(models[1])
    assert "GroupNorm" in str(models[0])


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


MASKS = {"MODEL.MASK_ON": "True"}
C4 = {
    "MODEL.BACKBONE.CONV_BODY": "R-50-C4",
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": "1024",
    "MODEL.RPN.USE_FPN": "False",
    "MODEL.ROI_HEADS.USE_FPN": "False",
    "MODEL.RPN.ANCHOR_STRIDE": "[16]",
    "MODEL.ROI_BOX_HEAD.POOLER_SCALES": "[0.0625]",
    "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR": "ResNet50Conv5ROIFeatureExtractor",
    "MODEL.ROI_BOX_HEAD.PREDICTOR": "FastRCNNPredictor",
}
SHARED = {
    "MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR": "ResNet50Conv5ROIFeatureExtractor",
    "MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR": "True",
    "MODEL.ROI_MASK_HEAD.POOLER_SCALES": "[0.0625]",
}


@pytest.mark.parametrize(
    ("level_rule", "mask_resolution", "expected"),
    [("detectron", "8", (7, 2)), ("torchvision", "14", (14, 1))],
)
def test_a_mask_heads_own_res5_pools_by_its_keys_and_in_the_predecessors_way_by_the_box_heads(
    make_config, level_rule, mask_resolution, expected
):
    own = {
        "MODEL.ARITHMETIC.ROI_LEVELS": level_rule,
        "MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR": "False",
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": "14",
        "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": "1",
        "MODEL.ROI_MASK_HEAD.RESOLUTION": mask_resolution,
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": "2",
        "MODEL.ROI_BOX_HEAD.NUM_CLASSES": "3",
    }
    with torch.device("meta"):
        heads = build_detection_model(make_config(C4 | MASKS | SHARED | own)).roi_heads
    assert heads.mask_head is not heads.box_head
    assert (heads.mask_pooler.output_size, heads.mask_pooler.sampling_ratio) == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"MODEL.ROI_BOX_HEAD.NUM_CLASSES": "None"},
            r"MODEL\.ROI_BOX_HEAD\.NUM_CLASSES: None.*with the background",
        ),
        (
            {"MODEL.BACKBONE.CONV_BODY": "R-51-FPN"},
            r"CONV_BODY: 'R-51-FPN' is .*\(did you mean R-\d+-FPN\?\).*R-18-FPN",
        ),
        (
            {"MODEL.RPN.ANCHOR_STRIDE": "[4, 16]", "MODEL.RPN.ANCHOR_SIZES": "[32, 64]"},
            r"ANCHOR_STRIDE: \[4, 16\].* no gap",
        ),
        ({"MODEL.RESNETS.RES2_OUT_CHANNELS": "30"}, "RES2_OUT_CHANNELS: 30 is not a multiple of 4"),
        ({"MODEL.RESNETS.WIDTH_PER_GROUP": "32"}, "R-18-FPN has none.*RES2_OUT_CHANNELS"),
        (
            {"MODEL.ROI_BOX_HEAD.POOLER_SCALES": "[0.25, 0.0625]"},
            r"ROI_BOX_HEAD\.POOLER_SCALES: \[0\.25, 0\.0625\].*the strides \[4, 8, 16, 32, 64\]",
        ),
        *(
            ({"MODEL.ROI_BOX_HEAD.POOLER_SCALES": scales}, r"POOLER_SCALES: .*the scales \[0\.25, ")
            for scales in ("[0.26, 0.125]", "[0.125, 0.25]", "[4]", "[1.0e-320]")
        ),
        (
            {"MODEL.ROI_BOX_HEAD.POOLER_SCALES": "[0.015625, 0.0078125]"},
            r"POOLER_SCALES: \[0\.015625, 0\.0078125\], but",
        ),
        (
            MASKS | {"MODEL.ROI_MASK_HEAD.RESOLUTION": "14"},
            "ROI_MASK_HEAD.RESOLUTION: 14.*POOLER_RESOLUTION 14.*set RESOLUTION to 28",
        ),
        (
            {"MODEL.KEYPOINT_ON": "True", "MODEL.ROI_KEYPOINT_HEAD.RESOLUTION": "28"},
            "ROI_KEYPOINT_HEAD.RESOLUTION: 28.*set RESOLUTION to 56",
        ),
        (MASKS | {"MODEL.ROI_MASK_HEAD.CONV_LAYERS": "[]"}, r"CONV_LAYERS: \[\] has no layer"),
        (
            {"MODEL.ROI_BOX_HEAD.PREDICTOR": "FastRCNNPredictor"},
            r"FastRCNNPredictor does not take.*vectors\); set FPNPredictor",
        ),
        (C4 | {"MODEL.ROI_BOX_HEAD.PREDICTOR": "FPNPredictor"}, r"maps\); set FastRCNNPredictor"),
        (
            C4 | MASKS | SHARED | {"MODEL.ROI_MASK_HEAD.RESOLUTION": "28"},
            "from POOLER_RESOLUTION 7 the head gives 8 x 8; set RESOLUTION to 8",
        ),
        (
            C4 | {"MODEL.BACKBONE.CONV_BODY": "timm:resnet10t"},
            "timm:resnet10t gives 256 channels, but .*takes 1024",
        ),
        (
            {"MODEL.RETINANET_ON": "True", "MODEL.BACKBONE.CONV_BODY": "R-18-FPN-RETINANET"},
            r"MODEL\.RETINANET\.NUM_CLASSES: None.*with the background",
        ),
    ],
)
def test_values_that_do_not_fit_together_are_an_error_that_names_the_key(
    make_config, overrides, message
):
    small = {"MODEL.BACKBONE.CONV_BODY": "R-18-FPN", "MODEL.ROI_BOX_HEAD.NUM_CLASSES": "3"}
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        build_detection_model(make_config(small | overrides))


def test_one_box_may_be_regressed_for_all_classes(make_config, narrow, images, make_targets):
    model = build_detection_model(make_config(narrow | {"MODEL.CLS_AGNOSTIC_BBOX_REG": "True"}))
    assert model.roi_heads.box_predictor.bbox_pred.out_features == 8
    losses = model(images, make_targets(images, [3, 2]))
    sum(losses.values()).backward()
    gradient = model.roi_heads.box_predictor.bbox_pred.weight.grad
    assert gradient[4:].any()
    assert not gradient[:4].any()
    with torch.no_grad():
        _, class_boxes = model.eval().predict_class_boxes(images)
    assert torch.equal(class_boxes[0].boxes[:, 1], class_boxes[0].boxes[:, 3])


def test_a_mask_head_can_share_the_box_heads_features(make_config, images, make_targets):
    small = {
        "MODEL.RESNETS.STEM_OUT_CHANNELS": "8",
        "MODEL.RESNETS.RES2_OUT_CHANNELS": "32",
        "MODEL.RESNETS.WIDTH_PER_GROUP": "8",
        "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": "128",
        "MODEL.ROI_BOX_HEAD.NUM_CLASSES": "4",
        "MODEL.ROI_MASK_HEAD.RESOLUTION": "8",
        "MODEL.RPN.POST_NMS_TOP_N_TEST": "20",
        "MODEL.RPN.POST_NMS_TOP_N_TRAIN": "40",
    }
    model = build_detection_model(make_config(C4 | MASKS | SHARED | small))
    assert not [name for name in model.state_dict() if "mask_head" in name]
    losses = model(images, make_targets(images, [3, 2]))
    losses["loss_mask"].backward()
    assert any(parameter.grad is not None for parameter in model.roi_heads.box_head.parameters())
    with torch.no_grad():
        outputs = model.eval()(images)
    assert all(output["mask_probs"].shape[1:] == (8, 8) for output in outputs)


def test_masks_are_pasted_in_the_model_where_that_is_asked_for(
    make_config, narrow, images, calibrate
):
    asked = narrow | {
        "MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS": "True",
        "MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS_THRESHOLD": "0.4",
    }
    model = build_detection_model(make_config(asked)).eval()
    calibrate(model)
    with torch.no_grad():
        outputs = model(images)
    for output, image in zip(outputs, images, strict=True):
        assert output["masks"].shape == (len(output["boxes"]), 1, *image.shape[1:])
        assert output["masks"].dtype == torch.bool

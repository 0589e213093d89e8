from pathlib import Path
from typing import Any

import pytest
import yaml

from detengine.config.conventions import MODERN, defaults
from detengine.config.schema import Config

DEFAULTS = Path(__file__).parents[2] / "../shared/golden/small/config_defaults.yaml"


def as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: as_lists(each) for key, each in value.items()}
    return [as_lists(each) for each in value] if isinstance(value, tuple) else value


def restricted(values: dict[str, Any], keys_of: dict[str, Any]) -> dict[str, Any]:
    return {
        key: restricted(values[key], inner) if isinstance(inner, dict) else values[key]
        for key, inner in keys_of.items()
    }


@pytest.mark.skipif(not DEFAULTS.exists(), reason="../shared is absent")
def test_the_predecessors_defaults_are_its_own() -> None:
    recorded = yaml.safe_load(DEFAULTS.read_text()) | {"PATHS_CATALOG": ""}
    assert restricted(as_lists(defaults("maskrcnn_benchmark")), recorded) == recorded


def test_modern_differs_where_its_table_says_so_and_nowhere_else() -> None:
    modern, predecessor = defaults("modern"), defaults("maskrcnn_benchmark")
    assert restricted(modern, MODERN) == MODERN

    def expect_equal_outside(
        left: dict[str, Any], right: dict[str, Any], table: dict[str, Any]
    ) -> None:
        for key, value in left.items():
            if isinstance(table.get(key), dict):
                expect_equal_outside(value, right[key], table[key])
            else:
                assert (value != right[key]) == (key in table), key

    expect_equal_outside(modern, predecessor, MODERN)


def test_modern_is_valid_and_names_itself() -> None:
    assert Config.model_validate(defaults("modern")).CONVENTIONS == "modern"


def test_modern_numbers_are_torchvisions() -> None:
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    cfg = Config.model_validate(defaults("modern"))
    rpn, heads, box = cfg.MODEL.RPN, cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
    assert model.transform.image_mean == list(cfg.INPUT.PIXEL_MEAN)
    assert model.transform.image_std == list(cfg.INPUT.PIXEL_STD)
    assert model.transform.min_size == (cfg.INPUT.MIN_SIZE_TEST,)
    assert model.transform.max_size == cfg.INPUT.MAX_SIZE_TEST
    assert model.rpn.anchor_generator.sizes == tuple((size,) for size in rpn.ANCHOR_SIZES)
    assert model.rpn.anchor_generator.aspect_ratios[0] == rpn.ASPECT_RATIOS
    assert model.rpn._pre_nms_top_n == {
        "training": rpn.PRE_NMS_TOP_N_TRAIN,
        "testing": rpn.PRE_NMS_TOP_N_TEST,
    }
    assert model.rpn._post_nms_top_n == {
        "training": rpn.FPN_POST_NMS_TOP_N_TRAIN,
        "testing": rpn.FPN_POST_NMS_TOP_N_TEST,
    }
    assert (model.rpn.nms_thresh, model.rpn.min_size) == (rpn.NMS_THRESH, rpn.MIN_SIZE)
    assert model.roi_heads.box_coder.weights == heads.BBOX_REG_WEIGHTS
    assert model.roi_heads.box_roi_pool.output_size == (box.POOLER_RESOLUTION,) * 2
    assert model.roi_heads.box_roi_pool.sampling_ratio == box.POOLER_SAMPLING_RATIO
    assert model.roi_heads.score_thresh == heads.SCORE_THRESH
    assert model.roi_heads.nms_thresh == heads.NMS
    assert model.roi_heads.detections_per_img == heads.DETECTIONS_PER_IMG
    assert model.backbone.out_channels == cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS

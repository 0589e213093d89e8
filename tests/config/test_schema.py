from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from detengine.config.schema import (
    CityscapesDefinition,
    CocoDefinition,
    Config,
    LvisDefinition,
    VocDefinition,
    YoloDefinition,
)


def sections(section: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield section
    for field in section.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from sections(field.annotation)


DEFINITIONS = [
    CocoDefinition,
    VocDefinition,
    CityscapesDefinition,
    LvisDefinition,
    YoloDefinition,
]
ALL_SECTIONS = [*sections(Config), *DEFINITIONS]


@pytest.mark.parametrize("section", ALL_SECTIONS, ids=lambda each: each.__name__)
def test_every_option_is_described(section: type[BaseModel]) -> None:
    for name, field in section.model_fields.items():
        is_section = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        if not is_section and name != "FORMAT":
            assert field.description, name


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("SOLVER.ACCUMULATE", 0),
        ("SOLVER.BASE_LR", 0),
        ("SOLVER.MOMENTUM", 1.0),
        ("SOLVER.EMA_DECAY", 1.0),
        ("SOLVER.OPTIMIZER", "lamb"),
        ("INPUT.HORIZONTAL_FLIP_PROB_TRAIN", 1.5),
        ("INPUT.HUE", 0.6),
        ("INPUT.MIN_SIZE_TRAIN", ()),
        ("INPUT.PIXEL_STD", (1.0, 0.0, 1.0)),
        ("INPUT.CROP_SIZE_TRAIN", (192, 0)),
        ("DATALOADER.NUM_WORKERS", -1),
        ("DATALOADER.REPEAT_THRESHOLD", 0),
        ("DATALOADER.REPEAT_THRESHOLD", 1.5),
        ("TEST.PICTURES", -1),
        ("DTYPE", "int8"),
        ("MODEL.META_ARCHITECTURE", "MaskRCNN"),
        ("MODEL.RESNETS.TRANS_FUNC", "Bottleneck"),
        ("MODEL.RESNETS.STEM_FUNC", "Stem"),
        ("MODEL.RPN.RPN_HEAD", "ConvRPNHead"),
        ("MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "FPN2MLP"),
        ("MODEL.ROI_BOX_HEAD.PREDICTOR", "MaskRCNNC4Predictor"),
        ("MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR", "FPN2MLPFeatureExtractor"),
        ("MODEL.ROI_MASK_HEAD.PREDICTOR", "FPNPredictor"),
        ("MODEL.ROI_KEYPOINT_HEAD.FEATURE_EXTRACTOR", "KeypointRCNN"),
        ("MODEL.ROI_KEYPOINT_HEAD.PREDICTOR", "FPNPredictor"),
        ("MODEL.FBNET.BN_TYPE", "sync"),
        ("MODEL.FBNET.RPN_BN_TYPE", "sync"),
        ("MODEL.GROUP_NORM.NUM_GROUPS", -2),
    ],
)
def test_nonsense_is_refused(path: str, value: Any) -> None:
    values = value
    for key in reversed(path.split(".")):
        values = {key: values}
    with pytest.raises(ValidationError, match=path):
        Config.model_validate(values)


def test_a_definition_takes_the_keys_of_its_format_only() -> None:
    definition = {"FORMAT": "coco", "IMAGES": "i", "ANNOTATIONS": "a.json"}
    cfg = Config.model_validate({"DATASETS": {"DEFINE": {"a": definition}}})
    assert cfg.DATASETS.DEFINE["a"] == CocoDefinition(
        FORMAT="coco", IMAGES="i", ANNOTATIONS="a.json"
    )
    with pytest.raises(ValidationError, match="SPLIT"):
        Config.model_validate({"DATASETS": {"DEFINE": {"a": definition | {"SPLIT": "train"}}}})

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from detengine.config.schema import CocoDefinition, Config, VocDefinition


def sections(section: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield section
    for field in section.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from sections(field.annotation)


ALL_SECTIONS = [*sections(Config), CocoDefinition, VocDefinition]


@pytest.mark.parametrize("section", ALL_SECTIONS, ids=lambda each: each.__name__)
def test_every_option_is_described(section: type[BaseModel]) -> None:
    for name, field in section.model_fields.items():
        is_section = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        if not is_section and name != "FORMAT":
            assert field.description, name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"SOLVER": {"IMS_PER_BATCH": 6, "ACCUMULATE": 4}}, "does not divide; expected a multiple"),
        ({"SOLVER": {"STEPS": (20, 10)}}, r"STEPS is \(20, 10\); expected ascending"),
        (
            {"INPUT": {"TO_BGR255": False, "PIXEL_MEAN": (102.9801, 115.9465, 122.7717)}},
            r"PIXEL_MEAN is \(102.9801, .* of RGB in \[0, 1\] where INPUT.TO_BGR255 is False",
        ),
        ({"DATASETS": {"CLASSES": ("cell", "cell")}}, "DATASETS.CLASSES has 'cell' twice"),
        (
            {
                "DATASETS": {
                    "DEFINE": {
                        "a": {"FORMAT": "voc", "ROOT": "", "SPLIT": "", "CLASSES": ("x", "x")}
                    }
                }
            },
            "DATASETS.DEFINE.a.CLASSES has 'x' twice",
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(values)


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
        ("TEST.PICTURES", -1),
        ("DTYPE", "int8"),
    ],
)
def test_nonsense_is_refused(path: str, value: Any) -> None:
    section, _, key = path.rpartition(".")
    with pytest.raises(ValidationError, match=path):
        Config.model_validate({section: {key: value}} if section else {key: value})


def test_a_definition_takes_the_keys_of_its_format_only() -> None:
    definition = {"FORMAT": "coco", "IMAGES": "i", "ANNOTATIONS": "a.json"}
    cfg = Config.model_validate({"DATASETS": {"DEFINE": {"a": definition}}})
    assert cfg.DATASETS.DEFINE["a"] == CocoDefinition(
        FORMAT="coco", IMAGES="i", ANNOTATIONS="a.json"
    )
    with pytest.raises(ValidationError, match="SPLIT"):
        Config.model_validate({"DATASETS": {"DEFINE": {"a": definition | {"SPLIT": "train"}}}})

"""The formats of data sets: what each definition of the configuration is read by."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from detengine.config.schema import (
    CityscapesDefinition,
    CocoDefinition,
    LvisDefinition,
    VocDefinition,
    YoloDefinition,
)
from detengine.data.cityscapes import load_cityscapes
from detengine.data.coco import load_coco
from detengine.data.lvis import load_lvis
from detengine.data.voc import load_voc
from detengine.data.yolo import load_yolo
from detengine.structures.ground_truth import GroundTruth


def _load_coco(
    definition: CocoDefinition, root: Path, name: str, for_scoring: bool, cache: Path | None
) -> tuple[GroundTruth, Path]:
    images = root / definition.IMAGES
    return load_coco(root / definition.ANNOTATIONS, images, name, cache=cache), images


def _load_voc(
    definition: VocDefinition, root: Path, name: str, for_scoring: bool, cache: Path | None
) -> tuple[GroundTruth, Path]:
    folder = root / definition.ROOT
    truth = load_voc(
        folder, definition.SPLIT, definition.CLASSES, name,
        annotations=definition.ANNOTATIONS, images=definition.IMAGES,
    )  # fmt: skip
    return truth, folder / definition.IMAGES


def _load_cityscapes(
    definition: CityscapesDefinition, root: Path, name: str, for_scoring: bool, cache: Path | None
) -> tuple[GroundTruth, Path]:
    images, annotations = root / definition.IMAGES, root / definition.ANNOTATIONS
    split, mode, mini = definition.SPLIT, definition.MODE, definition.MINI
    truth = load_cityscapes(
        images, annotations, split, name, mode=mode, mini=mini, with_regions=for_scoring
    )
    return truth, images / split


def _load_lvis(
    definition: LvisDefinition, root: Path, name: str, for_scoring: bool, cache: Path | None
) -> tuple[GroundTruth, Path]:
    images = root / definition.IMAGES
    return load_lvis(root / definition.ANNOTATIONS, images, name, cache=cache), images


def _load_yolo(
    definition: YoloDefinition, root: Path, name: str, for_scoring: bool, cache: Path | None
) -> tuple[GroundTruth, Path]:
    labels = None if definition.LABELS is None else root / definition.LABELS
    return load_yolo(root / definition.IMAGES, labels, definition.CLASSES, name)


FORMATS: dict[str, Callable[[Any, Path, str, bool, Path | None], tuple[GroundTruth, Path]]] = {
    "coco": _load_coco,
    "voc": _load_voc,
    "cityscapes": _load_cityscapes,
    "lvis": _load_lvis,
    "yolo": _load_yolo,
}
"""For each DatasetDefinition.FORMAT: the definition, the folder that relative paths start at, the
data set's name, whether what only scoring asks for is wanted, and the folder that keeps what was
read of a large file, to its annotations and its image folder."""

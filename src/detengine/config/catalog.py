"""The data sets that have a name without being defined: those of the predecessor's catalog.

Names and places are those of maskrcnn_benchmark/config/paths_catalog.py, the order of VOC's classes
that of its data/datasets/voc.py.
"""

from difflib import get_close_matches
from pathlib import Path

from detengine.config.schema import (
    CityscapesDefinition,
    CocoDefinition,
    DatasetDefinition,
    Datasets,
    VocDefinition,
    YoloDefinition,
)

DEFAULT_ROOT = "datasets"
"""Where the catalog's relative paths start if DATASETS.ROOT is empty."""

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)


def find_definition(datasets: Datasets, name: str) -> tuple[DatasetDefinition, Path]:
    """Where a data set's files are, and the folder its relative paths start at.

    DATASETS.DEFINE wins over the catalog. Raises ValueError, with the nearest known names, for a
    name that is in neither; and FileNotFoundError if files of the catalog are not there.
    """
    if name in datasets.DEFINE:
        return datasets.DEFINE[name], Path(datasets.ROOT)
    if name not in CATALOG:
        raise ValueError(_unknown(datasets, name))
    root = Path(datasets.ROOT or DEFAULT_ROOT)
    _raise_if_absent(name, root, CATALOG[name])
    return CATALOG[name], root


def _unknown(datasets: Datasets, name: str) -> str:
    nearest = get_close_matches(name, [*datasets.DEFINE, *CATALOG], 3)
    hint = f". Did you mean {' or '.join(nearest)}?" if nearest else ""
    defined = ", ".join(sorted(datasets.DEFINE)) or "none"
    return (
        f"data set {name!r} is not defined under DATASETS.DEFINE, nor is it a name of the catalog "
        f"(docs/configuration.md has them all); defined are: {defined}{hint}"
    )


def _raise_if_absent(name: str, root: Path, definition: DatasetDefinition) -> None:
    absent = [path for path in _places(root, definition) if not path.exists()]
    if absent:
        raise FileNotFoundError(
            f"the files of data set {name!r} are not there: looked for "
            f"{' and '.join(str(path.absolute()) for path in absent)}. Set DATASETS.ROOT to the "
            f"folder that holds {_places(Path(), definition)[0].parts[0]}/, or say where the files "
            f"are under DATASETS.DEFINE.{name}."
        )


def _places(root: Path, definition: DatasetDefinition) -> list[Path]:
    """The folders and files that must be there."""
    if isinstance(definition, VocDefinition):
        return [root / definition.ROOT]
    assert not isinstance(definition, YoloDefinition), "the catalog has none"
    places = [root / definition.ANNOTATIONS, root / definition.IMAGES]
    if isinstance(definition, CityscapesDefinition):
        return [place / definition.SPLIT for place in places]
    return places


def _coco(images: str, annotations: str) -> CocoDefinition:
    return CocoDefinition(FORMAT="coco", IMAGES=images, ANNOTATIONS=annotations)


def _coco_catalog() -> dict[str, DatasetDefinition]:
    found: dict[str, DatasetDefinition] = {}
    for year, split, images in (
        *((2017, "train", "train"), (2017, "val", "val"), (2014, "train", "train")),
        *((2014, split, "val") for split in ("val", "minival", "valminusminival")),
    ):
        for prefix, kind in (("", "instances"), ("keypoints_", "person_keypoints")):
            if year == 2014 or not prefix:
                found[f"{prefix}coco_{year}_{split}"] = _coco(
                    f"coco/{images}{year}", f"coco/annotations/{kind}_{split}{year}.json"
                )
    return found


def _voc_catalog() -> dict[str, DatasetDefinition]:
    found: dict[str, DatasetDefinition] = {}
    for year in (2007, 2012):
        root = f"voc/VOC{year}"
        for split in ("train", "val", "test"):
            found[f"voc_{year}_{split}"] = VocDefinition(
                FORMAT="voc", ROOT=root, SPLIT=split, CLASSES=VOC_CLASSES
            )
            if (year, split) != (2012, "test"):  # whose annotations were never published
                found[f"voc_{year}_{split}_cocostyle"] = _coco(
                    f"{root}/JPEGImages", f"{root}/Annotations/pascal_{split}{year}.json"
                )
    return found


def _cityscapes_catalog() -> dict[str, DatasetDefinition]:
    found: dict[str, DatasetDefinition] = {}
    for split in ("train", "val", "test"):
        found[f"cityscapes_fine_instanceonly_seg_{split}_cocostyle"] = _coco(
            "cityscapes/images",
            f"cityscapes/annotations/instancesonly_filtered_gtFine_{split}.json",
        )
    for mode in ("poly", "mask"):
        found[f"cityscapes_{mode}_instance_train"] = _cityscapes("train", mode)
        found[f"cityscapes_{mode}_instance_val"] = _cityscapes("val", mode)
        found[f"cityscapes_{mode}_instance_minival"] = _cityscapes("val", mode, mini=10)
    return found


def _cityscapes(split: str, mode: str, mini: int | None = None) -> CityscapesDefinition:
    folders = {"IMAGES": "cityscapes/leftImg8bit", "ANNOTATIONS": "cityscapes/gtFine"}
    return CityscapesDefinition.model_validate(
        {"FORMAT": "cityscapes", **folders, "SPLIT": split, "MODE": mode, "MINI": mini}
    )


CATALOG: dict[str, DatasetDefinition] = _coco_catalog() | _voc_catalog() | _cityscapes_catalog()

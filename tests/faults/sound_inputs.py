"""Whole data sets of a few tiny images, one of each kind, which the cases break."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from faults.broken_inputs import Kind

SIZES = {"a.jpg": (40, 30), "b.jpg": (32, 48), "c.jpg": (36, 36)}
"""(width, height) of each image."""
RUNS = [50, 20, 28, 20, 1082]
"""Of a mask in a.jpg."""

MODEL = """\
CONVENTIONS: modern
OUTPUT_DIR: run
REPORT: False
INPUT: {MIN_SIZE_TRAIN: [32], MAX_SIZE_TRAIN: 64, MIN_SIZE_TEST: 32, MAX_SIZE_TEST: 64}
DATALOADER: {NUM_WORKERS: 0, ASPECT_RATIO_GROUPING: False}
MODEL: {DEVICE: cpu, BUILDER: "tiny_detectors:with_dropout"}
SOLVER: {IMS_PER_BATCH: 3, MAX_ITER: 1, LOG_PERIOD: 1}
TEST: {IMS_PER_BATCH: 3, PICTURES: 0}
"""
MASK_R_CNN = (
    *("MODEL.BUILDER", "null", "MODEL.BACKBONE.CONV_BODY", "R-18-FPN", "MODEL.WEIGHT", ""),
    *("MODEL.BACKBONE.NORM", "GN", "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", "0"),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", "32"),
    *("MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", "64"),
)
"""Overrides for a model of our own in place of the tiny one, which takes no image of one pixel."""
DEFINITIONS = {
    "coco": "{FORMAT: coco, IMAGES: images, ANNOTATIONS: a.json}",
    "keypoints": "{FORMAT: coco, IMAGES: images, ANNOTATIONS: a.json}",
    "lvis": "{FORMAT: lvis, IMAGES: images, ANNOTATIONS: a.json}",
    "voc": "{FORMAT: voc, ROOT: ., SPLIT: train, CLASSES: [disc, bar]}",
    "yolo": "{FORMAT: yolo, IMAGES: images, LABELS: labels, CLASSES: [disc, bar]}",
    "polygons": "{FORMAT: cityscapes, IMAGES: i, ANNOTATIONS: g, SPLIT: train, MODE: poly}",
    "ids": "{FORMAT: cityscapes, IMAGES: i, ANNOTATIONS: g, SPLIT: train, MODE: mask}",
    "file": "{FORMAT: coco, IMAGES: images, ANNOTATIONS: a.json}",
}
WITH_MASKS, WITH_KEYPOINTS = frozenset({"coco", "lvis"}), frozenset({"keypoints"})


def configuration_of(kind: Kind) -> str:
    """The YAML file of a run on the data set `t`, which lies in the folder of the file."""
    lines = [MODEL + f"DATASETS: {{DEFINE: {{t: {DEFINITIONS[kind]}}}, TRAIN: [t], TEST: [t]}}"]
    if kind in WITH_MASKS:
        lines = [lines[0].replace("MODEL: {", "MODEL: {MASK_ON: True, ")]
    if kind in WITH_KEYPOINTS:
        head = "MODEL: {KEYPOINT_ON: True, ROI_KEYPOINT_HEAD: {NUM_CLASSES: 2}, "
        lines = [lines[0].replace("MODEL: {", head)]
    return "\n".join(lines) + "\n"


def write_sound(kind: Kind, folder: Path) -> None:
    """The data set and, but for a folder that is recognised, the file `run.yaml`."""
    folder.mkdir(parents=True)
    _WRITERS[kind](folder)
    if kind != "folder":
        (folder / "run.yaml").write_text(configuration_of(kind))


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """size: (width, height). Smooth, so that a JPEG of it is small."""
    low = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(low).resize(size, Image.Resampling.BICUBIC)


def _write_images(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, size) in enumerate(SIZES.items()):
        picture(size, seed).save(folder / name)


def coco_content() -> dict[str, Any]:
    """Polygons, run lengths as numbers and as a string, a crowd; the last image is empty."""
    images = [
        {"id": number, "file_name": name, "width": size[0], "height": size[1]}
        for number, (name, size) in enumerate(SIZES.items(), start=1)
    ]
    square = [4, 4, 24, 4, 24, 24, 4, 24]
    annotations = [
        {
            "id": 11,
            "image_id": 1,
            "category_id": 3,
            "bbox": [4, 4, 20, 20],
            "area": 400,
            "iscrowd": 0,
            "segmentation": [square],
        },
        {
            "id": 12,
            "image_id": 1,
            "category_id": 7,
            "bbox": [1, 18, 3, 12],
            "area": 40,
            "iscrowd": 0,
            "segmentation": {"size": [30, 40], "counts": RUNS},
        },
        {
            "id": 13,
            "image_id": 2,
            "category_id": 3,
            "bbox": [4, 4, 20, 20],
            "area": 400,
            "iscrowd": 0,
            "segmentation": [square],
        },
        {
            "id": 14,
            "image_id": 2,
            "category_id": 7,
            "bbox": [0, 0, 32, 48],
            "area": 1536,
            "iscrowd": 1,
            "segmentation": {"size": [48, 32], "counts": "0P`1"},
        },
    ]
    categories = [{"id": 3, "name": "disc"}, {"id": 7, "name": "bar"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return copy.deepcopy(content)  # a case may change a part of a part


def _write_coco(folder: Path) -> None:
    _write_images(folder / "images")
    (folder / "a.json").write_text(json.dumps(coco_content()))


def _write_keypoints(folder: Path) -> None:
    _write_images(folder / "images")
    content = coco_content()
    content["categories"] = [{"id": 3, "name": "bird", "keypoints": ["beak", "tail"]}]
    for each in content["annotations"]:
        each |= {"category_id": 3, "iscrowd": 0, "keypoints": [5, 6, 2, 9, 8, 1]}
        each |= {"num_keypoints": 2}
    (folder / "a.json").write_text(json.dumps(content))


def _write_lvis(folder: Path) -> None:
    _write_images(folder / "images/train2017")
    content = coco_content()
    for each in content["images"]:
        each["coco_url"] = f"http://images.cocodataset.org/train2017/{each.pop('file_name')}"
        each |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    content["images"][2]["neg_category_ids"] = [3]
    for each in content["categories"]:
        each["frequency"] = "f"
    for each in content["annotations"]:
        del each["iscrowd"]
    (folder / "a.json").write_text(json.dumps(content))


PAGE = """\
<annotation><filename>{name}</filename><size><width>{width}</width><height>{height}</height>\
<depth>3</depth></size><object><name>disc</name><difficult>0</difficult><bndbox><xmin>5</xmin>\
<ymin>5</ymin><xmax>24</xmax><ymax>24</ymax></bndbox></object></annotation>"""


def _write_voc(folder: Path) -> None:
    _write_images(folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    for name, (width, height) in SIZES.items():
        page = PAGE.format(name=name, width=width, height=height)
        (folder / f"Annotations/{name[0]}.xml").write_text(page)
    (folder / "ImageSets/Main").mkdir(parents=True)
    (folder / "ImageSets/Main/train.txt").write_text("a\nb\nc\n")


def _write_yolo(folder: Path) -> None:
    _write_images(folder / "images")
    (folder / "labels").mkdir()
    for name in SIZES:
        (folder / f"labels/{name[0]}.txt").write_text("0 0.5 0.5 0.4 0.4\n1 0.25 0.25 0.25 0.25\n")


def _write_folder(folder: Path) -> None:
    for split in ("train", "val"):
        _write_yolo(folder / split)
    (folder / "data.yaml").write_text(
        "train: train/images\nval: val/images\nnc: 2\nnames: [disc, bar]\n"
    )


CAR = {"label": "car", "polygon": [[4, 4], [20, 4], [20, 20], [4, 20]]}


def _write_cityscapes(folder: Path) -> None:
    images, truth = folder / "i/train/x", folder / "g/train/x"
    images.mkdir(parents=True)
    truth.mkdir(parents=True)
    for seed, name in enumerate("abc"):
        picture((40, 30), seed).save(images / f"{name}_leftImg8bit.png")
        polygons = {"imgHeight": 30, "imgWidth": 40, "objects": [CAR]}
        (truth / f"{name}_gtFine_polygons.json").write_text(json.dumps(polygons))
        ids = np.full((30, 40), 7, dtype=np.uint16)
        ids[4:20, 4:20] = 26001
        Image.fromarray(ids).save(truth / f"{name}_gtFine_instanceIds.png")


_WRITERS: dict[Kind, Callable[[Path], None]] = {
    "coco": _write_coco,
    "keypoints": _write_keypoints,
    "lvis": _write_lvis,
    "voc": _write_voc,
    "yolo": _write_yolo,
    "folder": _write_folder,
    "polygons": _write_cityscapes,
    "ids": _write_cityscapes,
    "file": _write_coco,
}

"""A data set whose names mean harm: markup, templates, shell, places elsewhere."""

import json
from pathlib import Path

from PIL import Image

MARKUP = "<img src=x onerror=document.title='it_ran'>"
CLASSES = (
    f"</script><script>document.title='it_ran'</script>{MARKUP}",
    f"\"' onmouseover=document.title='it_ran' {MARKUP}",
    "{{ 7 * 7 }}{% import os %}__import__('os').system('touch it_ran')",
)
FILES = (
    "<b onclick=alert(1)>&amp;.png",
    "$(touch it_ran);`touch it_ran`.png",
    "-rf --output it_ran.png",
    "{{ 7 * 7 }} %n%s ]]> ..&#10;.png",
    "javascript:alert(1).png",
    "n" * 251 + ".png",
)

CONFIG = """\
CONVENTIONS: modern
OUTPUT_DIR: {folder}/run
SINKS: [tensorboard]
DATASETS:
  ROOT: {folder}
  DEFINE:
    hostile: {{FORMAT: coco, IMAGES: images, ANNOTATIONS: all.json}}
  TRAIN: [hostile]
  TEST: [hostile]
INPUT: {{MIN_SIZE_TRAIN: [64], MAX_SIZE_TRAIN: 64, MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 64}}
DATALOADER: {{NUM_WORKERS: 0}}
MODEL:
  DEVICE: cpu
  BACKBONE: {{CONV_BODY: R-18-FPN, NORM: GN, FREEZE_CONV_BODY_AT: 0}}
  RESNETS: {{STEM_OUT_CHANNELS: 8, RES2_OUT_CHANNELS: 16, BACKBONE_OUT_CHANNELS: 16}}
  RPN:
    ANCHOR_STRIDE: [4, 8]
    ANCHOR_SIZES: [24, 48]
    PRE_NMS_TOP_N_TRAIN: 50
    FPN_POST_NMS_TOP_N_TRAIN: 20
    FPN_POST_NMS_TOP_N_TEST: 20
  ROI_HEADS: {{BATCH_SIZE_PER_IMAGE: 8, POSITIVE_FRACTION: 0.5}}
  ROI_BOX_HEAD: {{POOLER_SCALES: [0.25, 0.125], POOLER_SAMPLING_RATIO: 1, MLP_HEAD_DIM: 16}}
SOLVER: {{OPTIMIZER: adamw, BASE_LR: 0.01, IMS_PER_BATCH: 2, MAX_ITER: 4, LOG_PERIOD: 1}}
TEST: {{IMS_PER_BATCH: 6, PICTURES: 6}}
"""


def write_hostile_data(folder: Path) -> Path:
    """The path of a configuration; the data are written beside it."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for image_id, name in enumerate(FILES, start=1):
        picture = Image.new("RGB", (64, 64), (30, 35, 45))
        picture.paste((250, 210, 90), (8, 8, 40, 40))
        picture.save(folder / "images" / name)
        images.append({"id": image_id, "file_name": name, "width": 64, "height": 64})
        box = {"bbox": [8, 8, 32, 32], "area": 1024, "iscrowd": 0}
        category = image_id % len(CLASSES) + 1
        annotations.append({"id": image_id, "image_id": image_id, "category_id": category, **box})
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "all.json").write_text(json.dumps(content))
    path = folder / "hostile.yaml"
    path.write_text(CONFIG.format(folder=folder))
    return path

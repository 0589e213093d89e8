"""The page of a data set's samples: which images, what of them, and nothing that could run."""

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detengine.config.load import load_config, replace
from detengine.config.schema import Config
from detengine.data.build import build_datasets, build_transforms
from detengine.data.dataset import TrainingData
from detengine.showing import Choice, annotations_of, show, stored_annotations

EVIL = "<img src=x onerror=alert(1)>"


def spoil(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def config(write_tiny_run: Callable[[Path], Path], tmp_path: Path) -> Path:
    return write_tiny_run(tmp_path)


def shown(cfg: Config, name: str, folder: Path, **choice: Any) -> str:
    """The page's text."""
    return show(cfg, name, Choice(**choice), folder).read_text()


def titles(page: str) -> list[str]:
    return [unescape(each) for each in re.findall(r"<h2>(.*?)</h2>", page)]


def test_images_are_spread_evenly_and_shown_as_stored_and_as_trained(
    tiny_config: Path, tmp_path: Path
) -> None:
    page = shown(load_config(tiny_config), "shapes_train", tmp_path, count=3, draws=2)
    assert titles(page) == ["train_0.jpg", "train_3.jpg", "train_6.jpg"]
    assert page.count("data:image/jpeg;base64,") == 9
    assert page.count("as it is stored</figcaption>") == 3
    assert page.count("training, epoch 2:") == 6  # beneath the picture, and in its place
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert len(pictures) == 9
    assert pictures[:3] == [
        "100_train_0_epoch1.png",
        "100_train_0_epoch2.png",
        "100_train_0_stored.png",
    ]


def test_a_seed_and_ids_choose_other_images(tiny_config: Path, tmp_path: Path) -> None:
    cfg = load_config(tiny_config)
    drawn = [
        titles(shown(cfg, "shapes_train", tmp_path / str(n), count=3, draws=0, seed=seed))
        for n, seed in enumerate([1, 1, 2])
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    page = shown(cfg, "shapes_train", tmp_path / "ids", draws=0, image_ids=(104, 101))
    assert titles(page) == ["train_4.jpg", "train_1.jpg"]
    with pytest.raises(ValueError, match=r"no image 7 in the data set; its image ids are 100, 101"):
        shown(cfg, "shapes_train", tmp_path / "none", image_ids=(7,))


def test_variants_are_those_of_the_training(tiny_config: Path, tmp_path: Path) -> None:
    cfg = replace(load_config(tiny_config), {"DATASETS.TRAIN": ("voc_train", "shapes_train")})
    cfg = replace(cfg, {"MODEL.MASK_ON": False, "INPUT.BRIGHTNESS": 0.5})
    show(cfg, "shapes_train", Choice(image_ids=(100,), draws=2), tmp_path)
    data = TrainingData(
        build_datasets(cfg, cfg.DATASETS.TRAIN), build_transforms(cfg, is_train=True), cfg.SEED
    )
    for epoch in (0, 1):
        seen = data[epoch, 7].image  # behind the seven images of voc_train
        path = tmp_path / "pictures" / f"100_train_0_epoch{epoch + 1}.png"
        with Image.open(path) as picture:
            small = picture.resize((seen.shape[2], seen.shape[1]), Image.Resampling.BOX)
        # all but the boxes' lines
        difference = np.abs(np.asarray(small).astype(int) - seen.permute(1, 2, 0).numpy())
        assert np.median(difference) <= 2


def test_all_names_are_escaped(config: Path, tmp_path: Path) -> None:
    def rename(content: dict[str, Any]) -> None:
        content["categories"][0]["name"] = EVIL
        content["images"][0]["file_name"] = f"{EVIL}.jpg"

    (config.parent / "images/train_0.jpg").rename(config.parent / "images" / f"{EVIL}.jpg")
    spoil(config.with_name("train.json"), rename)
    page = shown(load_config(config), "shapes_train", tmp_path / "out", count=1, draws=1)
    assert EVIL not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 3
    assert titles(page) == [f"{EVIL}.jpg"]


def test_nothing_on_the_page_comes_from_elsewhere(tiny_config: Path, tmp_path: Path) -> None:
    page = shown(load_config(tiny_config), "shapes_val", tmp_path, count=1, draws=1)
    assert not re.findall(r"https?://|<script|<link rel=.stylesheet", page)
    assert "default-src 'none'" in page


def test_an_image_that_cannot_be_read_is_shown_by_what_is_wrong(
    config: Path, tmp_path: Path
) -> None:
    (config.parent / "images/val_0.jpg").write_text("not a picture")
    spoil(config.with_name("val.json"), lambda content: content["annotations"][3].update(bbox=[]))
    page = shown(load_config(config), "shapes_val", tmp_path / "out", count=9, draws=1)
    assert len(titles(page)) == 4
    assert "it is text, which begins with" in page
    assert "the bbox of annotation 4 must be [x, y, width, height]" in unescape(page)
    assert page.count("as it is stored</figcaption>") == 3


def test_a_data_set_without_masks_is_shown_though_the_model_asks_for_them(
    tiny_config: Path, tmp_path: Path
) -> None:
    page = shown(load_config(tiny_config), "voc_train", tmp_path, count=1, draws=1)
    assert len(titles(page)) == 1


def test_images_of_every_kind_can_be_shown(config: Path, tmp_path: Path) -> None:
    images = config.parent / "images"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(images / "train_0.jpg") as image:
        size = image.size
        image.transpose(Image.Transpose.ROTATE_90).save(images / "train_0.jpg", exif=exif)
    with Image.open(images / "train_1.jpg") as image:
        image.convert("L").save(images / "train_1.jpg")
    Image.new("RGB", (3, 2)).save(images / "train_6.jpg")
    spoil(
        config.with_name("train.json"),
        lambda content: content["images"][6].update(width=3, height=2),
    )
    page = shown(
        load_config(config), "shapes_train", tmp_path / "out", image_ids=(100, 101, 106), draws=1
    )
    assert page.count("as it is stored</figcaption>") == 3
    assert f"{size[0]} x {size[1]}" in page
    assert 'class="problem"' not in page


def test_crowds_and_unused_classes_are_set_aside(config: Path) -> None:
    spoil(
        config.with_name("train.json"), lambda content: content["annotations"][0].update(iscrowd=1)
    )
    [dataset] = build_datasets(load_config(config), ["shapes_train"])
    found, names = stored_annotations(dataset.ground_truth(), 0, ["disc"])
    assert [
        (names[label - 1], why) for label, why in zip(found.labels, found.set_aside, strict=True)
    ] == [
        ("disc", "crowd"),
        ("bar", "not used"),
    ]


def test_inclusive_targets_are_drawn_as_the_continuous_boxes_they_stand_for(
    tiny_config: Path,
) -> None:
    [modern] = build_datasets(load_config(tiny_config), ["shapes_train"])
    [historic] = build_datasets(
        replace(load_config(tiny_config), {"MODEL.ARITHMETIC.INCLUSIVE_PIXELS": True}),
        ["shapes_train"],
    )
    boxes = [annotations_of(each[0], each).boxes_xyxy for each in (modern, historic)]
    torch.testing.assert_close(*boxes)


def test_a_data_set_that_is_not_there_is_an_error(tiny_config: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not defined under"):
        shown(load_config(tiny_config), "shape_train", tmp_path)

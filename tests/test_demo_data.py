"""The data that the package carries for `detengine demo`."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools import mask as coco_mask

FOLDER = Path(str(files("detengine") / "demo_data"))


def read(split: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"instances_{split}.json").read_text())


def test_it_takes_less_than_three_megabytes() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 3e6


def test_no_image_is_in_both_splits_and_none_is_left_over() -> None:
    train, val = (
        {image["file_name"] for image in read(split)["images"]} for split in ("train", "val")
    )
    assert (len(train), len(val)) == (45, 15)
    assert not train & val
    assert train | val == {path.name for path in (FOLDER / "images").iterdir()}


@pytest.mark.parametrize("split", ["train", "val"])
def test_each_mask_is_of_its_images_size_and_has_the_area_and_box_that_are_written(
    split: str,
) -> None:
    data = read(split)
    sizes = {}
    for image in data["images"]:
        with Image.open(FOLDER / "images" / image["file_name"]) as picture:
            sizes[image["id"]] = [picture.height, picture.width]
        assert sizes[image["id"]] == [image["height"], image["width"]]
    for annotation in data["annotations"]:
        mask = annotation["segmentation"]
        assert mask["size"] == sizes[annotation["image_id"]]
        assert coco_mask.area(mask) == annotation["area"]
        assert coco_mask.toBbox(mask).tolist() == annotation["bbox"]
        assert annotation["category_id"] == 1
    assert len({annotation["id"] for annotation in data["annotations"]}) == len(data["annotations"])


def test_origin_and_licence_travel_with_it() -> None:
    text = (FOLDER / "README.txt").read_text()
    assert "2018 Data Science Bowl" in text
    assert "CC0" in text

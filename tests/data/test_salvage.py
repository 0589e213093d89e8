"""Of a data set that its reader refuses: everything that is wrong, and everything that is not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from detengine.data.coco import load_coco
from detengine.data.salvage_coco import salvage_coco
from detengine.data.salvage_voc import salvage_voc
from detengine.data.salvage_yolo import salvage_yolo
from detengine.data.yolo import load_yolo
from detengine.structures.finding import Problem
from detengine.structures.ground_truth import GroundTruth

BOX = {"image_id": 1, "category_id": 10, "bbox": [2, 3, 4.5, 6]}
Files = list[tuple[str, tuple[float, float, float, float], int]]


def salvage(path: Path) -> tuple[GroundTruth, list[Problem]]:
    problems: list[Problem] = []
    return salvage_coco(path, path.parent, "pets", problems), problems


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_good_file_is_read_as_by_its_reader(make_coco: Callable[..., Path]) -> None:
    path = make_coco(
        [(20, 30), (25, 15)],
        [
            {**BOX, "segmentation": [[1, 1, 9, 1, 9, 9]]},
            {**BOX, "image_id": 2, "keypoints": [1, 2, 2], "iscrowd": 1},
        ],
    )
    truth, problems = salvage(path)
    assert problems == []
    assert truth.digest() == load_coco(path, path.parent, "pets").digest()


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        ({"category_id": 99}, "annotation 8 has the unknown category 99"),
        ({"image_id": 99}, "annotation 8 belongs to image 99"),
        ({"bbox": [1, 2, 3]}, "the bbox of annotation 8 must be [x, y, width, height]"),
        ({"bbox": [900, 900, 5, 5]}, "the box of annotation 8 lies entirely outside"),
        ({"bbox": [5, 5, -3, 5]}, "the box of annotation 8 has a negative size"),
        ({"segmentation": [[1, 2, 3, 4]]}, "a polygon is a list of x1, y1"),
        ({"segmentation": {"size": [9, 9], "counts": [81]}}, "of an image of [9, 9]"),
        ({"segmentation": {"size": [20, 30], "counts": [81]}}, "its run lengths cover 81 pixels"),
        ({"segmentation": "x"}, "neither polygons"),
        ({"iscrowd": 3}, "'iscrowd' of annotation 8 must be 0 or 1"),
        ({"id": "8"}, "'id' of annotation 1 must be an integer"),
    ],
)
def test_one_bad_annotation_is_named_and_the_others_are_kept(
    make_coco: Callable[..., Path], spoiled: dict[str, Any], said: str
) -> None:
    path = make_coco([(20, 30)], [{**BOX, "id": 7}, {**BOX, "id": 8, **spoiled}, {**BOX, "id": 9}])
    truth, [problem] = salvage(path)
    assert said in problem.message
    assert truth.annotation_ids.tolist() == [7, 9]


def test_every_bad_annotation_is_named(make_coco: Callable[..., Path]) -> None:
    bad = [{**BOX, "category_id": 99}, {**BOX, "bbox": []}, {**BOX, "bbox": [-9, -9, 1, 1]}]
    truth, problems = salvage(make_coco([(20, 30)], [BOX, *bad]))
    assert len(problems) == 3
    assert len(truth.annotation_ids) == 1


def test_a_doubled_annotation_id_is_named_and_both_are_kept(
    make_coco: Callable[..., Path],
) -> None:
    path = make_coco([(20, 30)], [{**BOX, "id": 7}, {**BOX, "id": 7, "bbox": [0, 0, 5, 5]}])
    truth, [problem] = salvage(path)
    assert "annotation id 7 stands twice" in problem.message
    assert sorted(truth.annotation_ids.tolist()) == [7, 8]


def test_a_doubled_image_id_is_named_and_its_first_image_kept(
    make_coco: Callable[..., Path],
) -> None:
    path = make_coco([(20, 30), (25, 15)], [BOX])
    edit(path, lambda content: content["images"][1].update(id=1))
    truth, [problem] = salvage(path)
    assert "image id 1 stands twice, for '1.png' and '2.png'" in problem.message
    assert [truth.file_name(index) for index in range(len(truth))] == ["1.png"]
    assert len(truth.annotation_ids) == 1


def test_a_lost_image_or_class_takes_its_annotations_with_it_without_a_word(
    make_coco: Callable[..., Path],
) -> None:
    path = make_coco(
        [(20, 30), (25, 15)], [BOX, {**BOX, "image_id": 2}, {**BOX, "category_id": 20}]
    )
    edit(path, lambda content: content["images"][1].pop("file_name"))
    edit(path, lambda content: content["categories"][1].pop("name"))
    truth, problems = salvage(path)
    assert len(problems) == 2
    assert truth.annotation_ids.tolist() == [1]
    assert truth.categories.names == ("cat",)


def test_a_doubled_class_is_named(make_coco: Callable[..., Path]) -> None:
    path = make_coco([(20, 30)], [BOX], categories=("cat", "cat"))
    truth, [problem] = salvage(path)
    assert "the name 'cat' stands twice among the categories" in problem.message
    assert truth.categories.ids == (10,)


def test_a_file_that_is_none_is_refused_as_by_its_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="no complete JSON file"):
        salvage(path)


def test_of_a_voc_split_every_bad_page_and_object_is_named(
    make_voc: Callable[..., Path],
) -> None:
    box = (2, 2, 9, 9)
    good: Files = [("cat", box, 0)]
    root = make_voc(
        {
            "good": good,
            "foreign": [("cow", box, 0), ("cat", box, 0)],
            "outside": [("cat", (90, 90, 99, 99), 0)],
            "turned": [("cat", (9, 9, 2, 2), 0)],
            "cut": good,
            "gone": good,
            "bare": good,
        }
    )
    (root / "Annotations/cut.xml").write_text("<annotation><obj")
    (root / "Annotations/gone.xml").unlink()
    (root / "JPEGImages/bare.jpg").unlink()
    listing = root / "ImageSets/Main/train.txt"
    listing.write_text(listing.read_text() + "good\n")
    problems: list[Problem] = []
    truth = salvage_voc(root, "train", ("cat", "dog"), "pets", problems)
    said = "\n".join(each.message for each in problems)
    assert len(problems) == 7
    for part in (
        "image 'good' stands twice",
        "unknown class 'cow'",
        "lies entirely outside of its image",
        "has a negative size",
        "cut.xml is no VOC annotation",
        "gone.xml does not exist",
        "the image of",
    ):
        assert part in said
    names = [truth.file_name(index) for index in range(len(truth))]
    assert names == ["good.jpg", "foreign.jpg", "outside.jpg", "turned.jpg"]
    assert torch.equal(truth.offsets.diff(), torch.tensor([1, 1, 0, 0]))


def write_yolo(root: Path, lines_of_image: dict[str, str]) -> Path:
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for stem, lines in lines_of_image.items():
        Image.new("RGB", (30, 20), "grey").save(root / "images" / f"{stem}.jpg")
        (root / "labels" / f"{stem}.txt").write_text(lines)
    return root / "images"


def test_of_a_yolo_folder_every_bad_line_and_image_is_named(tmp_path: Path) -> None:
    good = "0 0.5 0.5 0.2 0.2\n"
    images = write_yolo(
        tmp_path,
        {"a": f"{good}9 0.5 0.5 0.2 0.2\n0 12 0.5 0.2 0.2\n1 0.2\n{good}", "b": good, "c": good},
    )
    (images / "b.jpg").write_text("not a picture")
    problems: list[Problem] = []
    truth, folder = salvage_yolo(images, None, ("cat", "dog"), "pets", problems)
    assert folder == images
    places = ["a.txt:2", "a.txt:3", "a.txt:4", "b.jpg"]
    assert [each.place for each in problems] == places
    assert [truth.file_name(index) for index in range(len(truth))] == ["a.jpg", "c.jpg"]
    assert truth.offsets.tolist() == [0, 2, 3]


def test_a_good_yolo_folder_is_read_as_by_its_reader(tmp_path: Path) -> None:
    images = write_yolo(tmp_path, {"a": "1 0.5 0.5 0.2 0.2\n", "b": "0 0.1 0.1 0.5 0.1 0.5 0.5\n"})
    problems: list[Problem] = []
    truth, _ = salvage_yolo(images, None, ("cat", "dog"), "pets", problems)
    assert problems == []
    assert truth.digest() == load_yolo(images, None, ("cat", "dog"), "pets")[0].digest()

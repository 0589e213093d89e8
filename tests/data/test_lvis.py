import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from detengine.config.load import load_config
from detengine.data.build import build_datasets
from detengine.data.coco import load_coco
from detengine.data.lvis import load_lvis
from detengine.structures.ground_truth import GroundTruth

MakeLvis = Callable[..., Path]
Changes = Mapping[int, dict[str, Any]]
NO_CHANGES: Changes = {}
URL = "http://images.cocodataset.org/"
BOX = {"image_id": 1, "category_id": 10, "bbox": [2, 3, 4.5, 6]}


@pytest.fixture
def make_lvis(make_coco: Callable[..., Path]) -> MakeLvis:
    """An LVIS file of a cat, in 1.png; nothing is known of the class fox in 2.png.

    images, categories: keys that the entries get instead; None takes a key away.
    """

    def make(images: Changes = NO_CHANGES, categories: Changes = NO_CHANGES) -> Path:
        path = make_coco([(20, 30), (25, 15)], [BOX], ("cat", "dog", "fox"))
        content = json.loads(path.read_text())
        of_images = [([30, 20], []), ([10], [20])]
        for number, (entry, (negative, rest)) in enumerate(
            zip(content["images"], of_images, strict=True)
        ):
            entry |= {"neg_category_ids": negative, "not_exhaustive_category_ids": rest}
            entry |= {"coco_url": f"{URL}val2017/{entry.pop('file_name')}"}
            _change(entry, images.get(number, {}))
        for number, (entry, frequency) in enumerate(zip(content["categories"], "rcf", strict=True)):
            entry["frequency"] = frequency
            _change(entry, categories.get(number, {}))
        path.write_text(json.dumps(content))
        return path

    return make


def _change(entry: dict[str, Any], change: dict[str, Any]) -> None:
    entry |= change
    for key in [key for key, value in change.items() if value is None]:
        del entry[key]


def _load(path: Path) -> GroundTruth:
    return load_lvis(path, path.parent, "pets")


def test_what_is_known_of_each_image_and_class_is_read(make_lvis: MakeLvis) -> None:
    truth = _load(make_lvis())
    federated = truth.federated
    assert federated is not None
    assert [federated.negative_ids(i) for i in range(2)] == [[30, 20], [10]]
    assert [federated.not_exhaustive_ids(i) for i in range(2)] == [[], [20]]
    assert truth.categories.names == ("cat", "dog", "fox")
    assert federated.frequencies == ("r", "c", "f")


def test_the_rest_is_what_a_coco_file_says(make_lvis: MakeLvis) -> None:
    path = make_lvis({i: {"file_name": f"{i + 1}.png"} for i in range(2)})
    truth, plain = _load(path), load_coco(path, path.parent, "pets")
    assert plain.federated is None
    assert truth.boxes_xywh.tolist() == [[2, 3, 4.5, 6]]
    assert replace(truth, federated=None).digest() == plain.digest()


def _move(path: Path, *places: str) -> None:
    for number, place in enumerate(places, start=1):
        (path.parent / place).parent.mkdir(exist_ok=True)
        (path.parent / f"{number}.png").rename(path.parent / place)


@pytest.mark.parametrize("places", [("1.png", "2.png"), ("val2017/1.png", "train2017/2.png")])
def test_images_are_where_their_address_says_with_or_without_its_folder(
    make_lvis: MakeLvis, places: tuple[str, str]
) -> None:
    path = make_lvis({1: {"coco_url": f"{URL}train2017/2.png"}})
    _move(path, *places)
    truth = _load(path)
    assert [truth.file_name(i) for i in range(2)] == list(places)


def test_each_image_is_looked_for_by_itself(make_lvis: MakeLvis) -> None:
    path = make_lvis()
    _move(path, "1.png", "val2017/2.png")
    truth = _load(path)
    assert [truth.file_name(i) for i in range(2)] == ["1.png", "val2017/2.png"]


@pytest.mark.parametrize("place", ["COCO_val2014_1.png", "1.png", "val2017/1.png"])
def test_a_name_of_coco_2014_may_be_that_of_the_file_or_not(
    make_lvis: MakeLvis, place: str
) -> None:
    path = make_lvis({0: {"file_name": "COCO_val2014_1.png"}})
    _move(path, place)
    assert _load(path).file_name(0) == place


def test_without_an_address_the_file_name_is_enough(make_lvis: MakeLvis) -> None:
    path = make_lvis({i: {"file_name": f"{i + 1}.png", "coco_url": None} for i in range(2)})
    assert _load(path).file_name(1) == "2.png"


def test_an_image_without_a_size_is_asked_for_it(make_lvis: MakeLvis) -> None:
    path = make_lvis({0: {"height": None}})
    _move(path, "val2017/1.png")
    assert _load(path).image_sizes.tolist() == [[20, 30], [25, 15]]


def test_a_wrong_image_folder_is_one_error_at_once_with_all_that_was_looked_for(
    make_lvis: MakeLvis, tmp_path: Path
) -> None:
    path = make_lvis({0: {"file_name": "COCO_1.png"}})
    names = r"'COCO_1\.png' or 'val2017/1\.png' or '1\.png' as its first image"
    with pytest.raises(FileNotFoundError, match=rf"{names}.*no such folder"):
        load_lvis(path, tmp_path / "wrong", "pets")
    with pytest.raises(FileNotFoundError, match=rf"{names}.*no such file.*image folder right"):
        load_lvis(path, tmp_path, "pets")


NEGATIVE, REST = "neg_category_ids", "not_exhaustive_category_ids"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({NEGATIVE: None}, r"image 1 has no 'neg_category_ids', which LVIS's.*FORMAT to coco"),
        ({REST: None}, r"image 1 has no 'not_exhaustive_category_ids', which LVIS's"),
        ({NEGATIVE: 20}, "'neg_category_ids' of image 1 must be a list of category ids, but is 20"),
        ({NEGATIVE: ["20"]}, r"must be a list of category ids, but is .*\['20'\]"),
        ({REST: [True]}, r"'not_exhaustive_category_ids' of image 1 must be .*\[True\]"),
        ({NEGATIVE: [20, 4]}, "'neg_category_ids' of image 1 has the unknown category 4.*has 3 c"),
        ({REST: [5]}, "'not_exhaustive_category_ids' of image 1 has the unknown category 5"),
        ({NEGATIVE: [20, 10]}, r"image 1 has annotations of category 10, which.*\[\(1, 10\)\]"),
        ({"coco_url": None}, "image 0 has neither a 'coco_url' nor a 'file_name'.*it has .*id"),
        ({"coco_url": 7}, "'coco_url' of image 0 must be text, but is 7"),
        ({"file_name": ["1.png"]}, "'file_name' of image 0 must be text"),
        ({"id": 3}, "belongs to image 1, which is not among the file's 2 images"),
        ({"width": 0}, "'width' of image 0 must be at least 1 pixel"),
    ],
)  # fmt: skip
def test_an_impossible_image_is_named_with_its_file(
    make_lvis: MakeLvis, change: dict[str, Any], message: str
) -> None:
    path = make_lvis({0: change})
    with pytest.raises(ValueError, match=message) as raised:
        _load(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frequency": None}, r"category 20 \(dog\) has no 'frequency', which LVIS's format asks"),
        ({"frequency": "x"}, r"'frequency' of category 20 \(dog\) must be 'r', 'c' or 'f'.*'x'"),
        ({"frequency": ["r"]}, r"'frequency' of category 20 \(dog\) must be"),
        ({"id": "20"}, "'id' of category 1 must be an integer"),
        ({"id": 10}, "category id '10' stands twice"),
        ({"name": "cat"}, "class name 'cat' stands twice"),
    ],
)
def test_an_impossible_category_is_named_with_its_file(
    make_lvis: MakeLvis, change: dict[str, Any], message: str
) -> None:
    path = make_lvis(categories={1: change})
    with pytest.raises(ValueError, match=message) as raised:
        _load(path)
    assert str(path) in str(raised.value)


def test_lvis_files_are_loaded_by_their_definition(make_lvis: MakeLvis, tmp_path: Path) -> None:
    path = make_lvis()
    definition = {"FORMAT": "lvis", "IMAGES": "coco", "ANNOTATIONS": "coco/instances.json"}
    datasets = {"ROOT": str(tmp_path), "DEFINE": {"pets": definition}, "TRAIN": ["pets"]}
    config = path.with_name("lvis.yaml")
    config.write_text(yaml.safe_dump({"CONVENTIONS": "modern", "DATASETS": datasets}))
    (pets,) = build_datasets(load_config(config), ["pets"])
    assert pets[0].target["labels"].tolist() == [1]
    assert pets.ground_truth().federated is not None

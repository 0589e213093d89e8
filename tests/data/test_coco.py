import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as oracle
from pycocotools.coco import COCO

from detengine.data import coco_file
from detengine.data.coco import load_coco
from detengine.structures.ground_truth import GroundTruth

MakeCoco = Callable[..., Path]
BOX = {"image_id": 1, "category_id": 10, "bbox": [2, 3, 4.5, 6]}


def _load(path: Path) -> GroundTruth:
    return load_coco(path, path.parent, "pets")


def test_annotations_stand_in_columns_sorted_by_image(make_coco: MakeCoco) -> None:
    path = make_coco(
        [(20, 30), (25, 15), (9, 9)],
        [
            {**BOX, "id": 7, "image_id": 3, "bbox": [0, 0, 1, 1], "area": 0.5},
            {**BOX, "id": 5, "category_id": 20, "iscrowd": 1},
            {**BOX, "id": 9, "image_id": 3, "bbox": [1, 1, 0, 3]},
        ],
    )
    truth = _load(path)
    assert (truth.categories.names, truth.categories.ids) == (("cat", "dog"), (10, 20))
    assert truth.image_ids.tolist() == [1, 2, 3]
    assert truth.image_sizes.tolist() == [[20, 30], [25, 15], [9, 9]]
    assert [truth.file_name(i) for i in range(3)] == ["1.png", "2.png", "3.png"]
    assert truth.offsets.tolist() == [0, 1, 1, 3]
    assert truth.annotation_ids.tolist() == [5, 7, 9]
    assert truth.category_ids.tolist() == [20, 10, 10]
    assert truth.boxes_xywh.tolist() == [[2, 3, 4.5, 6], [0, 0, 1, 1], [1, 1, 0, 3]]
    assert truth.areas.tolist() == [27, 0.5, 0]
    assert truth.is_crowd.tolist() == [True, False, False]
    assert not truth.is_difficult.any()
    assert truth.masks is None
    assert truth.keypoints is None


def test_all_three_kinds_of_mask_are_read_and_none_is_allowed(make_coco: MakeCoco) -> None:
    dense = np.asfortranarray(np.random.default_rng(0).integers(0, 2, (20, 30), dtype=np.uint8))
    compressed = oracle.encode(dense)["counts"].decode()
    path = make_coco(
        [(20, 30)],
        [
            {**BOX, "segmentation": [[1, 1, 9, 1, 9, 9]]},
            {**BOX, "segmentation": {"size": [20, 30], "counts": [10, 5, 585]}},
            {**BOX, "segmentation": {"size": [20, 30], "counts": compressed}, "area": 3},
            {**BOX, "segmentation": []},
            BOX,
        ],
    )
    truth = _load(path)
    assert truth.masks is not None
    assert truth.annotation_ids.tolist() == [1, 2, 3, 4, 5]
    masks = [truth.masks[i] for i in range(5)]
    assert masks[2].decode() == compressed
    assert masks[3:] == [b"", b""]
    assert truth.areas[1:].tolist() == [5, 3, 27, 27]
    polygon = oracle.merge(oracle.frPyObjects([[1, 1, 9, 1, 9, 9]], 20, 30))
    assert masks[0] == polygon["counts"]
    assert truth.areas[0] == oracle.area(polygon)


def test_keypoints_are_read_counted_and_named(make_coco: MakeCoco) -> None:
    path = make_coco(
        [(20, 30)],
        [
            {**BOX, "keypoints": [1, 2, 2, 3, 4, 1, 0, 0, 0]},
            {**BOX, "keypoints": [1, 2, 2, 3, 4, 1, 0, 0, 0], "num_keypoints": 1},
            BOX,
        ],
        categories=(),
    )
    content = json.loads(path.read_text())
    content["categories"] = [{"id": 10, "name": "bird", "keypoints": ["tip", "left", "right"]}]
    path.write_text(json.dumps(content))
    truth = _load(path)
    assert truth.keypoints is not None
    assert truth.keypoints.shape == (3, 3, 3)
    assert truth.keypoints[0].tolist() == [[1, 2, 2], [3, 4, 1], [0, 0, 0]]
    assert truth.num_keypoints is not None
    assert truth.num_keypoints.tolist() == [2, 1, 0]
    assert truth.keypoint_names == ("tip", "left", "right")


def test_an_image_whose_size_is_not_given_is_asked_for_it(make_coco: MakeCoco) -> None:
    path = make_coco([(20, 30)], [])
    content = json.loads(path.read_text())
    del content["images"][0]["width"]
    path.write_text(json.dumps(content))
    assert _load(path).image_sizes.tolist() == [[20, 30]]


def test_a_file_without_annotations_is_a_data_set_without_objects(make_coco: MakeCoco) -> None:
    truth = _load(make_coco([(20, 30), (5, 5)], []))
    assert truth.offsets.tolist() == [0, 0, 0]
    assert truth.boxes_xywh.shape == (0, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 9}, "annotation 77 belongs to image 9, which is not among the file's 1"),
        ({"category_id": 3}, r"annotation 77 has the unknown category 3.*\[10, 20\]"),
        ({"category_id": "cat"}, "'category_id' of annotation 77 must be an integer"),
        ({"bbox": None}, r"annotation 77 must be \[x, y, width, height\], but is None"),
        ({"bbox": [1, 2, 3]}, "annotation 77 must be"),
        ({"bbox": [2, 3, -4, 5]}, r"annotation 77 has a negative size: .*-4.0.* 1\.png of 30 x 20"),
        ({"bbox": [30, 3, 4, 5]}, "annotation 77 lies entirely outside of its image.*30 x 20"),
        ({"bbox": [2, -9, 4, 5]}, "annotation 77 lies entirely outside"),
        ({"bbox": [31, 3, 0, 5]}, "annotation 77 lies entirely outside"),
        ({"area": "big"}, "area of annotation 77 must be a number, but is 'big'"),
        ({"segmentation": "x"}, "segmentation of annotation 77: neither polygons"),
        ({"segmentation": [[1, 2, 3]]}, "segmentation of annotation 77: a polygon is a list"),
        ({"segmentation": {"size": [9, 9], "counts": [81]}}, r"77: .* image of \[9, 9\]"),
        ({"keypoints": [1, 2]}, "keypoints of annotation 77 must be 0 times x, y"),
        ({"keypoints": 5}, "keypoints of annotation 77 must be 0 times x, y"),
        ({"num_keypoints": "x"}, "'num_keypoints' of annotation 77 must be a number, but is 'x'"),
        ({"iscrowd": "0"}, "'iscrowd' of annotation 77 must be 0 or 1, but is '0'"),
        ({"id": 2**63}, "'id' of annotation 0 is 9223372036854775808, which 64 bits do not hold"),
    ],
)  # fmt: skip
def test_an_impossible_annotation_is_named_with_its_file(
    make_coco: MakeCoco, change: dict[str, Any], message: str
) -> None:
    path = make_coco([(20, 30)], [{**BOX, "id": 77, **change}])
    with pytest.raises(ValueError, match=message) as raised:
        _load(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox"])
def test_a_missing_key_of_an_annotation_is_named(make_coco: MakeCoco, key: str) -> None:
    annotation = {name: value for name, value in BOX.items() if name != key}
    with pytest.raises(ValueError, match=rf"annotation 0 \(without an id\) has no '{key}'"):
        _load(make_coco([(20, 30)], [annotation]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": None}, "'annotations' must be a list of objects"),
        ({"images": [3]}, "'images' must be a list of objects"),
        ({"images": [{"id": 1}]}, "image 0 has no 'file_name'"),
        ({"images": [{"id": "a", "file_name": "1.png"}]}, "'id' of image 0 must be an integer"),
        ({"images": [{"id": 1, "file_name": "1.png", "height": 0, "width": 5}]}, "at least 1"),
        ({"categories": [{"id": 1}]}, "category 0 has no 'name'"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}, "'a' stands twice"),
        ({"categories": [{"id": i, "name": str(i), "keypoints": ["k"] * i} for i in (1, 2)]},
         "different keypoints"),
        ({"categories": [{"id": 1, "name": "a", "keypoints": 5}]}, "must be a list of their names"),
        ({"images": [{"id": 1, "file_name": "1.png", "height": 2**20, "width": 2**20}]},
         "more than the 2\\*\\*32 that masks can count"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_with_what_is_missing(
    make_coco: MakeCoco, change: dict[str, Any], message: str
) -> None:
    path = make_coco([(20, 30)], [])
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message) as raised:
        _load(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_file_without_a_section_is_refused(make_coco: MakeCoco, key: str) -> None:
    path = make_coco([(20, 30)], [])
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"the file has no '{key}'"):
        _load(path)


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
@pytest.mark.parametrize("worth_cutting", [0, 1 << 20])
def test_a_section_that_stands_twice_is_refused(
    make_coco: MakeCoco, monkeypatch: pytest.MonkeyPatch, key: str, worth_cutting: int
) -> None:
    monkeypatch.setattr(coco_file, "_WORTH_CUTTING", worth_cutting)
    path = make_coco([(20, 30)], [BOX, {**BOX, "attributes": {"images": []}}])
    _load(path)
    path.write_text(path.read_text().replace(f'"{key}": [', f'"{key}": [], "{key}": [', 1))
    with pytest.raises(ValueError, match=rf"instances\.json has '{key}' 2 times, of which only"):
        _load(path)


def test_doubled_ids_are_refused(make_coco: MakeCoco) -> None:
    path = make_coco([(20, 30)], [{**BOX, "id": 4}, {**BOX, "id": 4}])
    with pytest.raises(ValueError, match="annotation id 4 stands 2 times"):
        _load(path)
    content = json.loads(path.read_text())
    content["images"] *= 3
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="image id 1 stands 3 times"):
        _load(path)


def test_a_missing_annotation_file_is_named_with_its_data_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'pets' has no annotation file.*none\.json"):
        _load(tmp_path / "none.json")


@pytest.mark.parametrize("text", ["", '{"images": [', '{"images": [NaN]}', "no json"])
def test_a_truncated_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json is no complete JSON file \(\d+ bytes\)"):
        _load(tmp_path / "a.json")


def test_a_result_file_is_told_from_an_annotation_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ValueError, match=r"holds a list.*result file"):
        _load(tmp_path / "a.json")


def test_a_wrong_image_folder_is_one_error_at_once(make_coco: MakeCoco, tmp_path: Path) -> None:
    path = make_coco([(20, 30)], [])
    with pytest.raises(FileNotFoundError, match=r"'1\.png' as its first image.*no such folder"):
        load_coco(path, tmp_path / "wrong", "pets")
    with pytest.raises(FileNotFoundError, match="it has no such file"):
        load_coco(path, tmp_path, "pets")


def test_for_scoring_alone_no_image_is_needed_but_each_size(make_coco: MakeCoco) -> None:
    path = make_coco([(20, 30)], [BOX])
    assert load_coco(path, None, "pets").digest() == _load(path).digest()
    content = json.loads(path.read_text())
    del content["images"][0]["height"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="image 0 has no 'height'"):
        load_coco(path, None, "pets")


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("nuclei/instances_val.json", "nuclei/images"),
        ("fruits_nuts/trainval.json", "fruits_nuts/images"),
        ("keypoints/person_keypoints.json", "keypoints"),
    ],
)
def test_real_files_are_read_as_pycocotools_reads_them(
    shared: Path, annotations: str, images: str
) -> None:
    path = shared / "data" / annotations
    truth = load_coco(path, shared / "data" / images, "real")
    reference = COCO(str(path))
    assert truth.image_ids.tolist() == list(reference.imgs)
    assert sorted(truth.annotation_ids.tolist()) == sorted(reference.anns)
    assert truth.masks is not None
    for position, annotation_id in enumerate(truth.annotation_ids.tolist()):
        annotation = reference.anns[annotation_id]
        counts = reference.annToRLE(annotation)["counts"]
        expected = counts if isinstance(counts, bytes) else counts.encode()
        assert truth.masks[position] == expected
        assert truth.boxes_xywh[position].tolist() == annotation["bbox"]
        assert truth.areas[position] == annotation["area"]
        assert truth.category_ids[position] == annotation["category_id"]
        if truth.keypoints is not None:
            assert truth.keypoints[position].flatten().tolist() == annotation["keypoints"]


def test_the_predecessors_files_give_its_order_of_classes_and_its_boxes(
    shared: Path, tmp_path: Path
) -> None:
    folder = shared / "golden/small/datasets"
    content = json.loads((folder / "coco/instances.json").read_text())
    with pytest.raises(ValueError, match="annotation 9 lies entirely outside"):
        load_coco(folder / "coco/instances.json", folder / "coco/images", "golden")
    content["annotations"] = [each for each in content["annotations"] if each["id"] != 9]
    (tmp_path / "a.json").write_text(json.dumps(content))
    truth = load_coco(tmp_path / "a.json", folder / "coco/images", "golden")
    assert truth.categories.names == ("bottle", "person", "dog")
    assert truth.image_ids.tolist() == [42, 7, 300, 11, 5, 9]
    recorded = json.loads((folder / "coco_expected.json").read_text())
    items = recorded["instances,remove_images_without_annotations=True"]["items"]
    boxes = {item["img_info"]["id"]: item["boxes"] for item in items}
    # the predecessor's corners are inclusive
    assert boxes[9] == [[2, 2, 2 + 40 - 1, 2 + 40 - 1]]
    assert truth.boxes_xywh[truth.annotations_of(5)].tolist() == [[2, 2, 40, 40]]

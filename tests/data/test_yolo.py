import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from detengine.data.coco import load_coco
from detengine.data.yolo import load_yolo
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.rle import decode_counts

CLASSES = ("cat", "dog")


def make_yolo(root: Path, labels: dict[str, str | None], size: tuple[int, int] = (40, 20)) -> Path:
    """Images of size (width, height) and their label files; None for an image without one."""
    for name, text in labels.items():
        picture = (root / "images" / name).with_suffix(".png")
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(picture)
        if text is not None:
            place = (root / "labels" / name).with_suffix(".txt")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
    return root


def load(root: Path, labels: str | None = "labels") -> GroundTruth:
    return load_yolo(root / "images", labels and root / labels, CLASSES, "pets")[0]


def test_boxes_come_from_centre_and_size_in_fractions(tmp_path: Path) -> None:
    truth = load(make_yolo(tmp_path, {"b": "1 0.5 0.5 0.25 0.5\n0 0.1 0.2 0.2 0.4", "a": "\n"}))
    assert [truth.file_name(i) for i in range(2)] == ["a.png", "b.png"]
    assert truth.image_ids.tolist() == [1, 2]
    assert truth.image_sizes.tolist() == [[20, 40], [20, 40]]
    assert truth.offsets.tolist() == [0, 0, 2]
    np.testing.assert_allclose(truth.boxes_xywh, [[15, 5, 10, 10], [0, 0, 8, 8]], atol=1e-9)
    assert truth.category_ids.tolist() == [1, 0]
    assert truth.annotation_ids.tolist() == [1, 2]
    assert truth.areas.tolist() == pytest.approx([100, 64])
    assert truth.masks is None


def test_an_outline_is_a_mask_and_its_box_the_outlines(tmp_path: Path) -> None:
    truth = load(make_yolo(tmp_path, {"a": "0 0.25 0.5 0.75 0.5 0.75 1 0.25 1\n1 0.5 0.5 1 1"}))
    np.testing.assert_allclose(truth.boxes_xywh, [[10, 10, 20, 10], [0, 0, 40, 20]])
    assert truth.masks is not None
    assert int(decode_counts(truth.masks[0])[1::2].sum()) == truth.areas[0] == 200
    assert truth.masks[1] == b""


def test_an_image_without_a_label_file_is_one_without_objects(tmp_path: Path) -> None:
    truth = load(make_yolo(tmp_path, {"a": "0 0.5 0.5 0.1 0.1", "b": None, "c": ""}))
    assert truth.offsets.tolist() == [0, 1, 1, 1]


def test_folders_in_the_folder_are_read_too(tmp_path: Path) -> None:
    truth = load(make_yolo(tmp_path, {"one/a": "0 0.5 0.5 0.1 0.1", "two/a": "1 0.5 0.5 0.1 0.1"}))
    assert [truth.file_name(i) for i in range(2)] == ["one/a.png", "two/a.png"]
    assert truth.category_ids.tolist() == [0, 1]


def test_without_a_folder_of_labels_the_last_images_in_the_path_becomes_labels(
    tmp_path: Path,
) -> None:
    root = make_yolo(tmp_path / "images" / "set", {"a": "0 0.5 0.5 0.1 0.1"})
    assert len(load(root, None).annotation_ids) == 1


def test_a_list_of_images_is_read_in_its_order_from_its_own_folder(tmp_path: Path) -> None:
    root = make_yolo(tmp_path, {"b": "0 0.5 0.5 0.1 0.1", "a": "1 0.5 0.5 0.1 0.1", "c": ""})
    listed = root / "train.txt"
    listed.write_text(f"./images/b.png\n{root}/images/a.png\n\n")
    truth, folder = load_yolo(listed, None, CLASSES, "pets")
    assert folder == root
    assert truth.category_ids.tolist() == [0, 1]
    assert (folder / truth.file_name(1)).is_file()


def test_a_listed_image_that_is_not_there_is_named_with_its_line(tmp_path: Path) -> None:
    root = make_yolo(tmp_path, {"a": "0 0.5 0.5 0.1 0.1"})
    (root / "train.txt").write_text("images/a.png\nimages/z.png\n")
    with pytest.raises(FileNotFoundError, match=r"train\.txt:2 names 'images/z\.png'.*start at"):
        load_yolo(root / "train.txt", None, CLASSES, "pets")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", r"class 2 is none of the 2 that there are: 0 to 1 \(cat, dog\)"),
        ("-1 0.5 0.5 0.1 0.1", r"class -1 is none of the 2"),
        ("0.5 0.5 0.5 0.1 0.1", r"'0.5' is no whole number"),
        ("cat 0.5 0.5 0.1 0.1", r"'cat' is no number"),
        ("0 0.5 nan 0.1 0.1", r"'nan' is no number"),
        ("0 320 0.5 0.1 0.1", r"320 is not between 0 and 1.*Are these pixels\?"),
        ("0 0.5 0.5 -0.005 0.1", r"negative size"),
        ("0 0.5 0.5 0.1", r"3 numbers stand behind the class; expected 4 for a box"),
        ("0", r"0 numbers stand behind the class"),
        ("0 0.5 0.5 0.1 0.1 0.9", r"5 numbers.*Is the fifth a score"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", r"7 numbers"),
    ],
)
def test_a_malformed_line_is_refused_with_file_and_line(
    tmp_path: Path, line: str, message: str
) -> None:
    root = make_yolo(tmp_path, {"a": f"0 0.5 0.5 0.1 0.1\n{line}\n"})
    with pytest.raises(ValueError, match=rf"labels/a\.txt:2: .*{message}"):
        load(root)


def test_labels_that_are_no_text_are_refused(tmp_path: Path) -> None:
    root = make_yolo(tmp_path, {"a": ""})
    (root / "labels/a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"labels/a\.txt is no text"):
        load(root)


def test_a_folder_in_which_no_image_has_labels_is_refused(tmp_path: Path) -> None:
    root = make_yolo(tmp_path, {"a": None, "b": None})
    with pytest.raises(FileNotFoundError, match=r"none of the 2 images of data set 'pets'.*LABELS"):
        load(root)


def test_labels_without_an_image_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_yolo(tmp_path, {"a": "0 0.5 0.5 0.1 0.1"})
    (root / "labels/z.txt").write_text("0 0.5 0.5 0.1 0.1")
    (root / "labels/classes.txt").write_text("cat\ndog")
    load(root)
    assert "1 label files have no image of their name, and are left out: z.txt" in caplog.text


@pytest.mark.parametrize(("exists", "word"), [(True, "holds none"), (False, "does not exist")])
def test_a_folder_without_images_is_refused(tmp_path: Path, exists: bool, word: str) -> None:
    if exists:
        (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"'pets' has no images.*{word}"):
        load(tmp_path)


def corners(limit: int) -> st.SearchStrategy[tuple[float, float]]:
    """Where a box begins, and how far it reaches, inside of a picture's edge."""
    ends = st.tuples(*[st.floats(0, limit, width=32)] * 2).map(sorted)
    return ends.filter(lambda pair: pair[1] - pair[0] > 0.01).map(
        lambda pair: (pair[0], pair[1] - pair[0])
    )


@given(boxes=st.lists(st.tuples(corners(40), corners(20)), min_size=1, max_size=5))
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_boxes_from_coco_to_yolo_and_back_are_the_same(
    tmp_path: Path, boxes: list[tuple[tuple[float, float], tuple[float, float]]]
) -> None:
    lines, annotations = [], []
    for number, ((x, width), (y, height)) in enumerate(boxes, start=1):
        annotations.append({"id": number, "image_id": 1, "category_id": 1 + number % 2,
                            "bbox": [x, y, width, height]})  # fmt: skip
        lines.append(f"{number % 2} {(x + width / 2) / 40:.8f} {(y + height / 2) / 20:.8f} "
                     f"{width / 40:.8f} {height / 20:.8f}")  # fmt: skip
    root = make_yolo(tmp_path, {"a": "\n".join(lines)})
    ours, theirs = load(root), _coco_of(root, annotations)
    np.testing.assert_allclose(ours.boxes_xywh, theirs.boxes_xywh, atol=1e-5)
    assert (ours.category_ids + 1).tolist() == theirs.category_ids.tolist()


def _coco_of(root: Path, annotations: list[dict[str, Any]]) -> GroundTruth:
    path = root / "coco.json"
    image = {"id": 1, "file_name": "a.png", "height": 20, "width": 40}
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    content = {"images": [image], "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return load_coco(path, root / "images", "pets")


def test_outlines_of_real_polygons_become_the_masks_that_coco_makes_of_them(
    shared: Path, tmp_path: Path
) -> None:
    source = shared / "data/fruits_nuts"
    content = json.loads((source / "trainval.json").read_text())
    image = content["images"][0]
    width, height = image["width"], image["height"]
    own = [each for each in content["annotations"] if each["image_id"] == image["id"]]
    own = [each for each in own if len(each["segmentation"]) == 1]
    lines = []
    for each in own:
        points = np.array(each["segmentation"][0]).reshape(-1, 2) / [width, height]
        lines.append("0 " + " ".join(f"{value:.9f}" for value in points.ravel()))
    (tmp_path / "labels").mkdir()
    name = Path(image["file_name"])
    (tmp_path / "labels" / f"{name.stem}.txt").write_text("\n".join(lines))
    (tmp_path / "images").mkdir()
    Image.open(source / "images" / name).save(tmp_path / "images" / name.name)
    content["images"], content["annotations"] = [image], own
    (tmp_path / "coco.json").write_text(json.dumps(content))
    ours = load_yolo(tmp_path / "images", tmp_path / "labels", ("x",), "fruits")[0]
    theirs = load_coco(tmp_path / "coco.json", source / "images", "fruits")
    assert ours.masks is not None
    assert theirs.masks is not None
    assert len(own) > 5
    assert [ours.masks[i] for i in range(len(own))] == [theirs.masks[i] for i in range(len(own))]

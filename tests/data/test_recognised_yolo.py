from pathlib import Path
from typing import Any

import pytest
import yaml

from data.data_folders import of, picture, text, yolo
from detengine.data.recognition import recognise


def described(root: Path, **values: Any) -> None:
    text(root / "data.yaml", yaml.safe_dump({"names": ["cat", "dog"], **values}))


@pytest.mark.parametrize("names", [["cat", "dog"], {0: "cat", 1: "dog"}, {1: "dog", 0: "cat"}])
def test_yolo_by_its_data_yaml(tmp_path: Path, names: Any) -> None:
    for split in ("train", "val"):
        yolo(tmp_path, f"images/{split}", f"labels/{split}")
    described(tmp_path, path=".", train="images/train", val="images/val", names=names, nc=2)
    found = recognise(tmp_path)
    assert found.format == "YOLO"
    assert found.class_names == ("cat", "dog")
    assert of(found, "train") == {"IMAGES": "images/train", "LABELS": "labels/train"}
    assert of(found, "val") == {"IMAGES": "images/val", "LABELS": "labels/val"}


def test_roboflows_paths_lead_out_of_the_folder_and_are_taken_within(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        yolo(tmp_path, f"{split}/images", f"{split}/labels")
    described(tmp_path, train="../train/images", val="../valid/images", test="../test/images")
    found = recognise(tmp_path)
    assert of(found, "train") == {"IMAGES": "train/images", "LABELS": "train/labels"}
    assert of(found, "val")["IMAGES"] == "valid/images"
    assert found.test == ()
    assert any("test is left out" in note for note in found.notes)


@pytest.mark.parametrize("base", ["../datasets/pets", "/where/it/was/made", "", None])
def test_a_path_that_is_not_there_is_the_files_own_folder(tmp_path: Path, base: Any) -> None:
    yolo(tmp_path, "images/train", "labels/train")
    described(tmp_path, path=base, train="images/train")
    assert of(recognise(tmp_path), "train")["IMAGES"] == "images/train"


def test_an_absolute_path_that_leads_into_the_folder_is_taken(tmp_path: Path) -> None:
    yolo(tmp_path, "images/train", "labels/train")
    described(tmp_path, path=str(tmp_path), train=str(tmp_path / "images/train"))
    assert of(recognise(tmp_path), "train")["IMAGES"] == "images/train"


@pytest.mark.parametrize("kind", ["absolute", "relative"])
def test_a_path_that_leads_out_of_the_folder_is_refused(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "pets"
    yolo(root, "images/train", "labels/train")
    yolo(tmp_path, "elsewhere", "elsewhere")
    place = str(tmp_path / "elsewhere") if kind == "absolute" else "../elsewhere"
    described(root, train="images/train", val=place)
    with pytest.raises(ValueError, match=r"`val` is .*elsewhere', which leads out of .*pets, to"):
        recognise(root)


@pytest.mark.parametrize("place", ["images/val", "../images/val", "/nowhere/images", "val.txt"])
def test_a_folder_that_is_not_there_is_refused_with_all_places(tmp_path: Path, place: str) -> None:
    yolo(tmp_path, "images/train", "labels/train")
    described(tmp_path, train="images/train", val=place)
    with pytest.raises(FileNotFoundError, match=r"data\.yaml: `val` is '.*no such folder or file"):
        recognise(tmp_path)


def test_several_folders_of_a_split_are_several_data_sets(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        yolo(tmp_path, f"{folder}/images", f"{folder}/labels")
    described(tmp_path, train=["one/images", "two/images"])
    found = recognise(tmp_path)
    assert len(found.train) == len(found.val) == 2
    assert {found.definitions[name]["IMAGES"] for name in found.train} == {
        "one/images",
        "two/images",
    }


def test_a_list_of_images_is_a_split(tmp_path: Path) -> None:
    yolo(tmp_path, "images", "labels")
    text(tmp_path / "train.txt", "./images/a.png\n")
    text(tmp_path / "val.txt", "./images/b.png\n")
    described(tmp_path, train="train.txt", val="val.txt")
    assert of(recognise(tmp_path), "train") == {"IMAGES": "train.txt"}


def test_val_that_is_train_is_divided_instead(tmp_path: Path) -> None:
    yolo(tmp_path, "images", "labels")
    described(tmp_path, train="images", val="images")
    found = recognise(tmp_path)
    assert found.held_out
    assert "names the same images for val as for train" in found.notes[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nc": 3}, r"`nc` is 3, but `names` has 2: cat, dog"),
        ({"names": {0: "cat", 2: "dog"}}, r"the numbers of `names` are 0, 2; expected 0 to 1"),
        ({"names": "cat"}, r"`names` is 'cat'; expected the classes' names"),
        ({"names": []}, r"`names` is '\[\]'; expected"),
        ({"kpt_shape": [17, 3]}, r"describes keypoints \(kpt_shape\), which are not read"),
        ({"train": 3}, r"`train` is '3'; expected a folder"),
        ({"train": None}, r"names no images to train on"),
        ({"train": "docs"}, r"which holds no images"),
        ({"train": "bare"}, r"bare, which .*data\.yaml names, has no labels"),
    ],
)
def test_a_data_yaml_that_is_wrong_says_where(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    yolo(tmp_path, "images", "labels")
    picture(tmp_path / "bare/a.png")
    text(tmp_path / "docs/readme.md", "")
    described(tmp_path, **{"train": "images", "val": "images", **values})
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        recognise(tmp_path)


def test_a_data_yaml_without_end_is_refused(tmp_path: Path) -> None:
    yolo(tmp_path, "images", "labels")
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    text(tmp_path / "data.yaml", "\n".join([*lines, "names: *a11", "train: images"]))
    with pytest.raises(ValueError, match=r"data\.yaml is no valid YAML: it has an alias"):
        recognise(tmp_path)


def test_two_descriptions_are_a_doubt(tmp_path: Path) -> None:
    yolo(tmp_path, "images", "labels")
    for name in ("a.yaml", "b.yaml"):
        text(tmp_path / name, "{names: [cat], train: images}")
    with pytest.raises(ValueError, match=r"several descriptions of YOLO data: a\.yaml, b\.yaml"):
        recognise(tmp_path)


def test_yolo_without_a_description_takes_its_names_from_classes_txt(tmp_path: Path) -> None:
    for split in ("train", "val"):
        yolo(tmp_path, f"images/{split}", f"labels/{split}")
    text(tmp_path / "labels/train/classes.txt", "cat\ndog\n")
    found = recognise(tmp_path)
    assert found.class_names == ("cat", "dog")
    assert of(found, "val") == {"IMAGES": "images/val", "LABELS": "labels/val"}


def test_yolos_labels_may_lie_beside_the_images(tmp_path: Path) -> None:
    yolo(tmp_path, "obj_train_data", "obj_train_data")
    text(tmp_path / "obj.names", "cat\n")
    definition = of(recognise(tmp_path), "train")
    assert definition["LABELS"] == "obj_train_data"


def test_yolo_without_names_of_classes_is_refused(tmp_path: Path) -> None:
    yolo(tmp_path, "images", "labels")
    with pytest.raises(ValueError, match=r"no names of their classes\. Put a classes\.txt there"):
        recognise(tmp_path)


def test_yolo_with_a_list_of_no_classes_is_refused(tmp_path: Path) -> None:
    yolo(tmp_path, "images", "labels")
    text(tmp_path / "classes.txt", "\n")
    with pytest.raises(ValueError, match=r"classes\.txt names no class\. Write the classes' names"):
        recognise(tmp_path)

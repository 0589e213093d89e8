import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.data_folders import XML, coco, of, picture, text, yolo
from detengine.data.recognition import recognise

# COCO


def test_coco_is_found_wherever_json_and_images_lie(tmp_path: Path) -> None:
    root = tmp_path / "pets"
    for split in ("train", "val"):
        picture(root / f"{split}2017/0.png")
        coco(root / f"annotations/instances_{split}2017.json", ["0.png"])
        text(root / f"annotations/captions_{split}2017.json", '{"images": [], "annotations": []}')
    found = recognise(root)
    assert found.format == "COCO"
    assert found.class_names == ("cat", "dog")
    assert not found.held_out
    for split in ("train", "val"):
        annotations = f"annotations/instances_{split}2017.json"
        assert of(found, split) == {"IMAGES": f"{split}2017", "ANNOTATIONS": annotations}


def test_roboflows_export_has_a_json_in_each_folder_of_images(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        picture(tmp_path / f"{split}/{split}.png")
        coco(tmp_path / f"{split}/_annotations.coco.json", [f"{split}.png"])
    found = recognise(tmp_path)
    assert of(found, "train")["IMAGES"] == "train"
    assert of(found, "val")["ANNOTATIONS"] == "valid/_annotations.coco.json"
    assert of(found, "test")["IMAGES"] == "test"


def test_one_json_is_divided_by_a_part(tmp_path: Path) -> None:
    picture(tmp_path / "0.png")
    coco(tmp_path / "labels.json", ["0.png"])
    found = recognise(tmp_path)
    assert found.held_out
    place = {"IMAGES": ".", "ANNOTATIONS": "labels.json"}
    assert of(found, "train") == {**place, "PART": [0.2, 1.0]}
    assert of(found, "val") == {**place, "PART": [0.0, 0.2]}
    assert "20 % of the images are held out" in found.notes[0]


def test_a_test_split_alone_beside_train_stays_untouched(tmp_path: Path) -> None:
    for split in ("train", "test"):
        picture(tmp_path / f"{split}/0.png")
        coco(tmp_path / f"{split}.json", ["0.png"])
    found = recognise(tmp_path)
    assert found.held_out
    assert of(found, "test") == {"IMAGES": "test", "ANNOTATIONS": "test.json"}


def test_file_names_with_folders_start_where_they_lead(tmp_path: Path) -> None:
    picture(tmp_path / "data/images/a/0.png")
    coco(tmp_path / "meta/all.json", ["images/a/0.png"])
    assert of(recognise(tmp_path), "train")["IMAGES"] == "data"


def test_of_cocos_own_files_for_several_tasks_detection_is_chosen_and_said(tmp_path: Path) -> None:
    for task in ("instances", "person_keypoints"):
        picture(tmp_path / "train2017/0.png")
        coco(tmp_path / f"annotations/{task}_train2017.json", ["0.png"])
    found = recognise(tmp_path)
    assert of(found, "train")["ANNOTATIONS"] == "annotations/instances_train2017.json"
    assert any("passed over: annotations/person_keypoints_train2017" in n for n in found.notes)


def test_two_json_files_that_may_be_meant_are_listed_with_a_file_that_names_them(
    tmp_path: Path,
) -> None:
    picture(tmp_path / "0.png")
    for name in ("boxes_train.json", "points_train.json"):
        coco(tmp_path / name, ["0.png"])
    with pytest.raises(ValueError, match=r"2 COCO files.*boxes_train\.json, points_tra") as error:
        recognise(tmp_path)
    snippet = str(error.value).split("for -c:\n")[1].rpartition("\n")[0]
    assert yaml.safe_load(snippet)["DATASETS"]["TRAIN"] == ["my_train"]


def test_two_folders_with_the_same_images_are_a_doubt(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        picture(tmp_path / folder / "0.png")
    coco(tmp_path / "labels.json", ["0.png"])
    with pytest.raises(ValueError, match=r"may be in one or two"):
        recognise(tmp_path)


def test_coco_without_its_images_is_refused(tmp_path: Path) -> None:
    coco(tmp_path / "labels.json", ["0.png", "1.png"])
    with pytest.raises(
        FileNotFoundError, match=r"lists images \(2, such as '0\.png'\), but no folder"
    ):
        recognise(tmp_path)


def test_a_coco_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = coco(tmp_path / "labels.json", ["0.png"])
    path.write_text(path.read_text()[:-4])
    with pytest.raises(ValueError, match=r"labels\.json is no complete JSON"):
        recognise(tmp_path)


def test_a_train_json_that_was_cut_off_before_its_categories_is_not_left_out(
    tmp_path: Path,
) -> None:
    for split in ("train", "val"):
        picture(tmp_path / f"{split}.png")
        coco(tmp_path / f"{split}.json", [f"{split}.png"])
    content = (tmp_path / "train.json").read_text()
    (tmp_path / "train.json").write_text(content[: content.index('"categories"')])
    with pytest.raises(ValueError, match=r"train\.json is no complete JSON"):
        recognise(tmp_path)


def test_a_json_that_lacks_something_of_coco_is_passed_over_with_a_note(tmp_path: Path) -> None:
    picture(tmp_path / "0.png")
    coco(tmp_path / "train.json", ["0.png"])
    text(tmp_path / "captions.json", '{"images": [], "annotations": []}')
    text(tmp_path / "package.json", '{"name": "x"}')
    assert recognise(tmp_path).notes[0] == (
        "passed over: captions.json is no COCO file: it has no categories"
    )
    assert not any("package.json" in note for note in recognise(tmp_path).notes)


# PASCAL VOC


def voc(root: Path, lists: dict[str, list[str]]) -> None:
    for name in {name for names in lists.values() for name in names}:
        picture(root / f"JPEGImages/{name}.jpg")
        text(root / f"Annotations/{name}.xml", XML.format("cat" if name == "a" else "dog"))
    for split, names in lists.items():
        text(root / f"ImageSets/Main/{split}.txt", "\n".join(names))


def test_voc_with_lists(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit/VOC2007"
    voc(root, {"train": ["a"], "val": ["b"], "trainval": ["a", "b"], "cat_train": ["a"]})
    found = recognise(tmp_path)
    assert found.format == "PASCAL VOC"
    assert found.class_names == ("cat", "dog")
    assert of(found, "train") == {"ROOT": "VOCdevkit/VOC2007", "SPLIT": "train"}
    assert of(found, "val") == {"ROOT": "VOCdevkit/VOC2007", "SPLIT": "val"}
    assert found.notes == ("lists in ImageSets/Main that are not used: cat_train, trainval",)


@pytest.mark.parametrize("only", ["trainval", "default"])
def test_voc_with_one_list_is_divided(tmp_path: Path, only: str) -> None:
    voc(tmp_path, {only: ["a", "b"]})
    assert of(recognise(tmp_path), "train") == {"ROOT": ".", "SPLIT": only, "PART": [0.2, 1.0]}


def test_xml_files_beside_their_images_need_no_lists(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        picture(tmp_path / split / f"{split}.jpg")
        text(tmp_path / split / f"{split}.xml", XML.format(split))
    found = recognise(tmp_path)
    assert found.class_names == ("train", "valid")
    assert of(found, "train") == {"ROOT": ".", "ANNOTATIONS": "train", "IMAGES": "train"}
    assert of(found, "val") == {"ROOT": ".", "ANNOTATIONS": "valid", "IMAGES": "valid"}


def test_xml_files_in_a_folder_of_their_own_find_their_images(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    text(tmp_path / "annotations/a.xml", XML.format("cat"))
    definition = of(recognise(tmp_path), "train")
    assert (definition["ANNOTATIONS"], definition["IMAGES"]) == ("annotations", "images")


def test_xml_files_without_images_are_refused(tmp_path: Path) -> None:
    text(tmp_path / "a.xml", XML.format("cat"))
    with pytest.raises(FileNotFoundError, match=r"1 VOC files, but no folder.*has an image"):
        recognise(tmp_path)


def test_two_voc_data_sets_are_a_doubt(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        voc(tmp_path / year, {"train": ["a"]})
    with pytest.raises(ValueError, match=r"several VOC data sets: VOC2007, VOC2012"):
        recognise(tmp_path)


# what is no data set


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no data set was recognised in .*: it is empty\."):
        recognise(tmp_path)


def test_images_without_annotations_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a/0.png")
    picture(tmp_path / "1.JPG")
    with pytest.raises(ValueError, match=r"it holds 2 images and nothing that says what is in"):
        recognise(tmp_path)


def test_files_of_other_kinds_are_named_with_what_they_lack(tmp_path: Path) -> None:
    text(tmp_path / "package.json", '{"name": "x"}')
    text(tmp_path / "page.xml", "<html/>")
    text(tmp_path / "notes.txt", "hello")
    picture(tmp_path / "notes.png")
    with pytest.raises(ValueError, match=r"it holds 1 \.json, 1 \.png, 1 \.txt, 1 \.xml") as error:
        recognise(tmp_path)
    for line in (
        "package.json is no COCO file: it has no images and no annotations and no categories",
        "page.xml is no VOC file: it has no <annotation>",
        "notes.txt is no YOLO label of an image",
    ):
        assert line in str(error.value)


def test_a_folder_that_is_not_there_or_is_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        recognise(tmp_path / "nothing")
    with pytest.raises(NotADirectoryError, match=r"is a file.*-c"):
        recognise(text(tmp_path / "run.yaml", ""))


def test_another_format_that_is_there_too_is_said(tmp_path: Path) -> None:
    yolo(tmp_path, "images", "labels")
    coco(tmp_path / "train.json", ["a.png"])
    found = recognise(tmp_path)
    assert found.format == "COCO"
    assert "there is YOLO, too; it is not used" in found.notes


def test_hidden_folders_and_endless_links_are_passed_by(tmp_path: Path) -> None:
    picture(tmp_path / "images/0.png")
    picture(tmp_path / ".cache/0.png")
    (tmp_path / "images/again").symlink_to(tmp_path)
    coco(tmp_path / "labels.json", ["0.png"])
    assert of(recognise(tmp_path), "train")["IMAGES"] == "images"


def test_recognition_imports_no_torch() -> None:
    code = "import sys, detengine.data.recognition; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "kind", "train", "val"),
    [
        ("bccd", "PASCAL VOC", {"ROOT": ".", "SPLIT": "train"}, {"ROOT": ".", "SPLIT": "val"}),
        (
            "nuclei",
            "COCO",
            {"IMAGES": "images", "ANNOTATIONS": "instances_train.json"},
            {"IMAGES": "images", "ANNOTATIONS": "instances_val.json"},
        ),
        (
            "fruits_nuts",
            "COCO",
            {"IMAGES": "images", "ANNOTATIONS": "trainval.json", "PART": [0.2, 1.0]},
            {"IMAGES": "images", "ANNOTATIONS": "trainval.json", "PART": [0.0, 0.2]},
        ),
        (
            "keypoints",
            "COCO",
            {"IMAGES": ".", "ANNOTATIONS": "person_keypoints.json", "PART": [0.2, 1.0]},
            {"IMAGES": ".", "ANNOTATIONS": "person_keypoints.json", "PART": [0.0, 0.2]},
        ),
    ],
)
def test_real_data_is_recognised(
    shared: Path, name: str, kind: str, train: dict[str, Any], val: dict[str, Any]
) -> None:
    found = recognise(shared / "data" / name)
    assert found.format == kind
    assert of(found, "train") == train
    assert of(found, "val") == val

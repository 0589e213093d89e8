import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from detengine.data.recognition import RecognisedData, recognise

LABEL = "0 0.5 0.5 0.2 0.2\n"
XML = (
    "<annotation><object><name>{}</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>8</xmax>"
    "<ymax>8</ymax></bndbox></object></annotation>"
)


def picture(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10)).save(path)
    return path.name


def coco(path: Path, file_names: list[str], **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": n, "file_name": name} for n, name in enumerate(file_names)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": [], "categories": categories, **more}
    path.write_text(json.dumps(content))
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def yolo(root: Path, images: str, labels: str, names: str = "ab") -> None:
    for name in names:
        picture(root / images / f"{name}.png")
        text(root / labels / f"{name}.txt", LABEL)


def of(found: RecognisedData, split: str) -> dict[str, Any]:
    """The one definition of a split, without its format and classes."""
    [name] = getattr(found, split)
    assert name == f"{found.folder.name}_{split}".replace("-", "_")
    definition = dict(found.definitions[name])
    return {key: each for key, each in definition.items() if key not in ("FORMAT", "CLASSES")}


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
    assert "20% of the images are held out" in found.notes[0]


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


# YOLO


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

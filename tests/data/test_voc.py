from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from detengine.data.voc import load_voc
from detengine.structures.ground_truth import GroundTruth

MakeVoc = Callable[..., Path]
CAT = ("cat", (3, 4, 12, 9), 0)


def _load(root: Path, classes: tuple[str, ...] | None = None) -> GroundTruth:
    return load_voc(root, "train", classes, "pets")


def test_pixels_from_1_to_the_last_become_continuous_corners(make_voc: MakeVoc) -> None:
    truth = _load(make_voc({"b": [CAT, ("dog", (1, 1, 30, 20), 1)], "a": []}))
    assert truth.categories.names == ("cat", "dog")
    assert truth.image_ids.tolist() == [1, 2]
    assert [truth.file_name(i) for i in range(2)] == ["b.jpg", "a.jpg"]
    assert truth.image_sizes.tolist() == [[20, 30], [20, 30]]
    assert truth.offsets.tolist() == [0, 2, 2]
    assert truth.boxes_xywh.tolist() == [[2, 3, 10, 6], [0, 0, 30, 20]]
    assert truth.areas.tolist() == [60, 600]
    assert truth.annotation_ids.tolist() == [1, 2]
    assert truth.is_difficult.tolist() == [False, True]


def test_a_stray_click_is_a_box_without_area(make_voc: MakeVoc) -> None:
    truth = _load(make_voc({"a": [("cat", (5, 6, 5, 6), 0)]}))
    assert truth.boxes_xywh.tolist() == [[4, 5, 0, 0]]
    assert truth.areas.tolist() == [0]


def test_given_classes_keep_their_order_and_an_unknown_one_is_refused(make_voc: MakeVoc) -> None:
    root = make_voc({"a": [CAT]})
    truth = _load(root, ("dog", "cat"))
    assert truth.categories.names == ("dog", "cat")
    assert truth.category_ids.tolist() == [2]
    with pytest.raises(ValueError, match=r"a\.xml has the unknown class 'cat'.*dog, bird"):
        _load(root, ("dog", "bird"))


@pytest.mark.parametrize("suffix", [".png", ".jpeg", ".bmp"])
def test_images_may_have_any_suffix(make_voc: MakeVoc, suffix: str) -> None:
    assert _load(make_voc({"a": [CAT]}, suffix)).file_name(0) == f"a{suffix}"


def test_an_image_is_found_by_the_name_in_its_xml_where_its_id_leads_nowhere(
    make_voc: MakeVoc,
) -> None:
    root = make_voc({"a": [CAT]})
    (root / "JPEGImages/a.jpg").rename(root / "JPEGImages/old.jpg")
    assert _load(root).file_name(0) == "old.jpg"
    (root / "JPEGImages/old.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"image of .*a\.xml must be .*but neither is there"
    ):
        _load(root)


def test_two_images_of_one_id_are_refused_with_both_names(make_voc: MakeVoc) -> None:
    root = make_voc({"a": [CAT]})
    Image.new("L", (30, 20)).save(root / "JPEGImages/a.png")
    with pytest.raises(FileNotFoundError, match=r"one suffix.*a\.jpg, a\.png is there"):
        _load(root)


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_a_size_that_is_not_given_comes_from_the_image(make_voc: MakeVoc, size: str) -> None:
    assert _load(make_voc({"a": [CAT]}, size=size)).image_sizes.tolist() == [[20, 30]]


def test_without_a_split_all_annotations_are_read_by_name(make_voc: MakeVoc) -> None:
    root = make_voc({"b": [CAT], "a": []})
    truth = load_voc(root, None, None, "pets")
    assert [truth.file_name(i) for i in range(2)] == ["a.jpg", "b.jpg"]
    assert truth.offsets.tolist() == [0, 0, 1]


def test_annotations_may_lie_beside_their_images(make_voc: MakeVoc) -> None:
    root = make_voc({"a": [CAT]})
    flat = root / "train"
    flat.mkdir()
    for path in (root / "Annotations/a.xml", root / "JPEGImages/a.jpg"):
        path.rename(flat / path.name)
    (flat / "a.txt").write_text("of another program")
    truth = load_voc(root, None, None, "pets", annotations="train", images="train")
    assert truth.file_name(0) == "a.jpg"


def test_a_folder_without_annotations_is_refused(make_voc: MakeVoc) -> None:
    root = make_voc({"a": [CAT]})
    with pytest.raises(
        FileNotFoundError, match=r"'pets' has no annotations: .*holds no \.xml file"
    ):
        load_voc(root, None, None, "pets", annotations="JPEGImages")
    with pytest.raises(FileNotFoundError, match=r"'pets' has no annotations: .*does not exist"):
        load_voc(root, None, None, "pets", annotations="nothing")


def test_a_missing_split_is_refused_with_those_there_are(make_voc: MakeVoc) -> None:
    root = make_voc({"a": [CAT]})
    with pytest.raises(FileNotFoundError, match=r"'pets' has no split 'val'.*found there: train"):
        load_voc(root, "val", None, "pets")


def test_a_missing_xml_is_named(make_voc: MakeVoc) -> None:
    root = make_voc({"a": [CAT]})
    (root / "Annotations/a.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.xml does not exist, but its image is listed"):
        _load(root)


def test_a_missing_image_folder_is_named(make_voc: MakeVoc) -> None:
    root = make_voc({"a": [CAT]})
    (root / "JPEGImages").rename(root / "images")
    with pytest.raises(FileNotFoundError, match="JPEGImages does not exist"):
        _load(root)


def test_an_image_listed_twice_is_refused(make_voc: MakeVoc) -> None:
    root = make_voc({"a": [CAT], "b": []})
    (root / "ImageSets/Main/train.txt").write_text("a\nb\na\n")
    with pytest.raises(ValueError, match="image 'a' stands 2 times"):
        _load(root)


BOMB = '<!DOCTYPE a [<!ENTITY x "xxxx"><!ENTITY y "&x;&x;">]><annotation>&y;</annotation>'
FILE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation>&x;</annotation>'


@pytest.mark.parametrize("text", [BOMB, FILE, BOMB.replace("&y;", "")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_never_resolved(make_voc: MakeVoc, text: str, encoding: str) -> None:
    root = make_voc({"a": [CAT]})
    (root / "Annotations/a.xml").write_bytes(text.encode(encoding))
    with pytest.raises(ValueError, match=r"a\.xml is no VOC annotation.*document type definition"):
        _load(root)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</annotation>", "", "is no VOC annotation: no element found"),
        ("<name>cat</name>", "", "<object> has no <name>"),
        ("<xmin>3</xmin>", "", "<object> has no <bndbox/xmin>"),
        ("<xmin>3</xmin>", "<xmin>x</xmin>", "<bndbox/xmin> of <object> must be a number.*'x'"),
        ("<xmin>3</xmin>", "<xmin>nan</xmin>", "must be a number"),
        ("<height>20</height>", "", "<annotation> has no <size/height>"),
    ],
)
def test_damaged_xml_is_refused_with_its_path(
    make_voc: MakeVoc, old: str, new: str, message: str
) -> None:
    root = make_voc({"a": [CAT]})
    path = root / "Annotations/a.xml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message) as raised:
        _load(root)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((9, 4, 3, 9), "box of annotation 1 has a negative size"),
        ((31, 4, 40, 9), r"box of annotation 1 lies entirely outside .* in a\.jpg of 30 x 20"),
    ],
)
def test_an_impossible_box_is_named(
    make_voc: MakeVoc, box: tuple[int, int, int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _load(make_voc({"a": [("cat", box, 0)]}))


@pytest.mark.parametrize(("split", "images"), [("train", 205), ("val", 87), ("test", 72)])
def test_real_splits_are_read_whole(shared: Path, split: str, images: int) -> None:
    truth = load_voc(shared / "data/bccd", split, None, "bccd")
    assert len(truth) == images
    assert truth.categories.names == ("Platelets", "RBC", "WBC")
    assert (truth.boxes_xywh[:, :2] >= 0).all()
    empty = {truth.file_name(i) for i in range(images)
             if (truth.areas[truth.annotations_of(i)] == 0).any()}  # fmt: skip
    assert empty <= {"BloodImage_00338.jpg", "BloodImage_00343.jpg"}


def test_the_predecessors_boxes_are_ours_without_the_last_pixel(shared: Path) -> None:
    truth = load_voc(shared / "golden/small/datasets/VOC", "test", None, "golden")
    corner = truth.boxes_xywh[truth.annotations_of(1)]
    assert corner.tolist() == [[2, 3, 48, 67], [19, 19, 26, 41]]
    assert truth.is_difficult[truth.annotations_of(1)].tolist() == [False, True]

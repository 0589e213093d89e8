"""What readers let pass is named; what is right is not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from detengine.data.annotation_checks import check_annotations
from detengine.data.coco import load_coco
from detengine.structures.finding import Finding

BOX = {"image_id": 1, "category_id": 10, "bbox": [2, 3, 4.5, 6]}
MASK = [[1, 1, 9, 1, 9, 9]]


def check(path: Path, **asked_for: bool) -> list[Finding]:
    options = {"with_masks": False, "with_keypoints": False, "for_training": True, **asked_for}
    return check_annotations(load_coco(path, path.parent, "pets"), "pets", **options)


def only(findings: list[Finding], severity: str, *parts: str) -> None:
    [finding] = findings
    assert finding.severity == severity
    for part in parts:
        assert part in finding.what


def test_good_annotations_are_nothing_to_be_said_of(make_coco: Callable[..., Path]) -> None:
    other = {**BOX, "bbox": [3, 3, 4.5, 6]}
    assert check(make_coco([(20, 30)], [BOX, other])) == []


def test_a_box_without_area_is_a_warning(make_coco: Callable[..., Path]) -> None:
    path = make_coco([(20, 30)], [BOX, {**BOX, "id": 5, "bbox": [3, 3, 0, 6]}])
    only(
        check(path), "warning", "1 annotation without width or height", "5 (1.png)", "which is not"
    )


def test_a_box_that_reaches_out_of_its_image_is_a_warning(make_coco: Callable[..., Path]) -> None:
    boxes: list[dict[str, Any]] = [
        {**BOX, "id": 5, "bbox": [25, 3, 7, 6]},
        {**BOX, "id": 6, "bbox": [25, 3, 6, 6]},  # by one pixel
        {**BOX, "id": 7, "bbox": [-3, 3, 6, 6]},
    ]
    only(check(make_coco([(20, 30)], boxes)), "warning", "2 annotations", "5 (1.png), 7 (1.png)")


def test_the_same_annotation_twice_is_a_warning(make_coco: Callable[..., Path]) -> None:
    doubled = [BOX, {**BOX, "category_id": 20}, BOX, {**BOX, "image_id": 2}]
    path = make_coco([(20, 30), (20, 30)], doubled)
    only(check(path), "warning", "1 annotation that stands twice", ": 3 (1.png)")


def test_a_mask_that_is_not_there_is_a_warning_where_masks_are_asked_for(
    make_coco: Callable[..., Path],
) -> None:
    other = {**BOX, "bbox": [3, 3, 4.5, 6]}
    path = make_coco([(20, 30)], [{**BOX, "segmentation": MASK}, other])
    assert check(path) == []
    only(check(path, with_masks=True), "warning", "1 annotation without a mask", "2 (1.png)")


def test_an_object_without_keypoints_is_a_note(make_coco: Callable[..., Path]) -> None:
    path = make_coco([(20, 30)], [{**BOX, "keypoints": [1, 2, 2]}, {**BOX, "bbox": [3, 3, 4, 6]}])
    assert check(path) == []
    only(check(path, with_keypoints=True), "note", "1 annotation without a labelled keypoint")


def test_images_without_annotations_are_counted(make_coco: Callable[..., Path]) -> None:
    few = make_coco([(20, 30)] * 3, [BOX, {**BOX, "image_id": 2}], name="few")
    only(check(few), "note", "1 image of 3 without annotations: 3.png. It is trained on")
    only(check(few, for_training=False), "note", "It is scored")
    many = make_coco([(20, 30)] * 3, [BOX], name="many")
    only(
        check(many), "warning", "2 images of 3 without annotations: 2.png, 3.png. They are trained"
    )
    only(check(make_coco([(20, 30)], [], name="all")), "error", "none of its images")


def test_crowds_are_a_note_and_may_be_of_any_form(make_coco: Callable[..., Path]) -> None:
    crowd = {**BOX, "iscrowd": 1, "bbox": [25, 3, 9, 0]}
    only(check(make_coco([(20, 30)], [BOX, crowd])), "note", "1 annotation marked as crowd")

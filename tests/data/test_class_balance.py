"""How often classes occur, and which are too rare."""

from collections.abc import Callable
from pathlib import Path

from detengine.data.class_balance import ClassCount, check_balance, count_classes
from detengine.data.coco import load_coco

BOX = {"image_id": 1, "category_id": 10, "bbox": [2, 3, 4.5, 6]}


def test_objects_and_images_are_counted_without_crowds(make_coco: Callable[..., Path]) -> None:
    path = make_coco([(20, 30)] * 2, [BOX, BOX, {**BOX, "image_id": 2}, {**BOX, "iscrowd": 1}])
    counts = count_classes(load_coco(path, path.parent, "pets"))
    assert counts == {"cat": ClassCount(3, 2), "dog": ClassCount(0, 0)}


def test_classes_that_are_rare_absent_or_never_scored_are_named() -> None:
    train = {"cat": ClassCount(500, 90), "dog": ClassCount(3, 3), "cow": ClassCount(0, 0)}
    found = check_balance({"train": train}, {"val": {"cat": ClassCount(9, 9)}}, [*train])
    assert [each.severity for each in found] == ["warning", "warning", "note"]
    assert "no object of cow" in found[0].what
    assert "a rare class: dog (3 objects)" in found[1].what
    assert "no object of dog: it is not scored" in found[2].what


def test_an_uneven_balance_is_a_note() -> None:
    train = {"cat": ClassCount(5000, 90), "dog": ClassCount(40, 30)}
    [found] = check_balance({"train": train}, {}, [*train])
    assert (found.severity, found.what) == ("note", "cat has 125 times as many objects as dog")


def test_several_training_sets_count_together() -> None:
    half = {"cat": ClassCount(15, 9)}
    assert check_balance({"a": half, "b": half}, {}, ["cat"]) == []

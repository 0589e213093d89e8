from collections.abc import Callable
from pathlib import Path

import pytest

from detengine.choosing.survey import survey
from detengine.data.coco import load_coco
from detengine.structures.ground_truth import GroundTruth

MakeTruth = Callable[..., GroundTruth]
SQUARE = [2, 2, 12, 2, 12, 12, 2, 12]
TRIANGLE = [2, 2, 12, 2, 2, 12]


def test_objects_that_are_not_trained_on_do_not_count(make_truth: MakeTruth) -> None:
    truth = make_truth(
        {"box_xywh": (1, 1, 10, 10)},
        {"box_xywh": (1, 1, 20, 5), "category_id": 2},
        {"box_xywh": (1, 1, 0, 9)},
        {"box_xywh": (0, 0, 40, 40), "is_crowd": True},
        {"box_xywh": (0, 0, 40, 40), "is_difficult": True},
    )
    found = survey([truth], [truth, truth])
    assert (found.images, found.objects, found.without_objects, found.most_objects) == (2, 2, 1, 2)
    assert found.scored_images == 4
    assert found.class_counts == {"cat": 1, "dog": 1}
    assert (found.short_side, found.long_side, found.aspect) == (40, 60, 1.5)
    assert (found.large, found.median) == (10, 10)
    assert found.ratios == (0.25, 1.0)


@pytest.mark.parametrize(("polygon", "outlines"), [(SQUARE, 0.0), (TRIANGLE, 1.0)])
def test_masks_that_are_rectangles_are_told_from_outlines(
    make_truth: MakeTruth,
    mask_of: Callable[[list[float]], bytes],
    polygon: list[float],
    outlines: float,
) -> None:
    masked = {"box_xywh": (2, 2, 10, 10), "mask": mask_of(polygon)}
    found = survey([make_truth(masked, {"box_xywh": (1, 1, 5, 5)})], [])
    assert (found.masks, found.outlines) == (1, outlines)


def test_the_smallest_class_counts_however_few_it_has(make_truth: MakeTruth) -> None:
    large = [{"box_xywh": (0, 0, 30, 30)}] * 30
    small = [{"box_xywh": (0, 0, 4, 4), "category_id": 2}] * 2
    assert survey([make_truth(*large, *small)], []).small == 4


def test_keypoints_are_those_of_a_single_class(shared: Path) -> None:
    folder = shared / "data/keypoints"
    people = load_coco(folder / "person_keypoints.json", folder, "people")
    found = survey([people], [people])
    assert (found.keypoints, found.has_sides, found.scored_images) == (17, True, 4)


def test_data_without_an_object_is_refused(make_truth: MakeTruth) -> None:
    with pytest.raises(ValueError, match=r"nothing to learn from: none of the 2 training images"):
        survey([make_truth()], [])

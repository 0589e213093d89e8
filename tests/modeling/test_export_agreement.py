"""When a file agrees with its model."""

import torch
from torch import Tensor

from detengine.modeling.export_agreement import Agreement, Cut

CUT = Cut(0.05, 100)


def detections(count: int) -> dict[str, Tensor]:
    corners = torch.arange(count)[:, None] * 20.0
    return {
        "boxes": torch.cat([corners, corners, corners + 10, corners + 10], dim=1),
        "scores": 0.9 - torch.arange(count) * 0.004,
        "labels": torch.ones(count, dtype=torch.int64),
    }


def problems_of(found: dict[str, Tensor], count: int = 4) -> str:
    agreement = Agreement()
    agreement.add(detections(count), found, CUT)
    return "; ".join(agreement.problems())


def test_the_order_does_not_matter() -> None:
    assert problems_of({name: values.flip(0) for name, values in detections(4).items()}) == ""


def test_a_box_beside_its_place_is_told_with_its_pixels() -> None:
    found = detections(4)
    found["boxes"][2, 3] += 0.5
    assert "boxes differ by up to 0.5 pixels" in problems_of(found)


def test_a_score_that_is_not_a_number_is_a_problem() -> None:
    found = detections(4)
    found["scores"][1] = float("nan")
    assert problems_of(found) != ""


def test_a_mask_that_differs_is_told() -> None:
    expected, found = detections(4), detections(4)
    for side in (expected, found):
        side["mask_probs"] = torch.zeros(4, 28, 28)
    found["mask_probs"][3, 5, 5] = 0.25
    told = "mask_probs differ by up to 0.25, and 0.001 is allowed"
    assert told in problems_of_pair(expected, found)


def test_another_label_is_another_detection() -> None:
    found = detections(4)
    found["labels"][0] = 2
    assert "2 detections are in one of the two alone" in problems_of(found)


def test_a_detection_that_is_missing_is_a_problem_and_so_is_one_more() -> None:
    assert "1 detections" in problems_of({n: values[1:] for n, values in detections(4).items()})
    assert "1 detections" in problems_of(detections(5), count=4)


def test_none_where_none_is_expected_is_fine_and_one_is_not() -> None:
    assert problems_of(detections(0), count=0) == ""
    assert problems_of(detections(1), count=0) != ""


def test_one_in_a_hundred_may_be_decided_otherwise() -> None:
    assert problems_of({n: values[1:] for n, values in detections(100).items()}, count=100) == ""


def test_what_is_at_the_threshold_may_be_in_one_alone() -> None:
    expected = detections(4)
    expected["scores"][3] = 0.0501
    agreement = Agreement()
    agreement.add(expected, {name: values[:3] for name, values in expected.items()}, CUT)
    assert (agreement.problems(), agreement.at_the_cut) == ([], 1)


def test_keypoints_of_a_heatmap_that_is_as_high_elsewhere_are_ties() -> None:
    expected, found = detections(10), detections(10)
    for side in (expected, found):
        side["keypoints"], side["keypoints_scores"] = torch.zeros(10, 17, 3), torch.zeros(10, 17)
    found["keypoints"][0, 0, 0] = 7.0
    assert problems_of_pair(expected, found) == ""
    found["keypoints_scores"][0, 0] = 1.0
    assert "keypoints differ by up to 7" in problems_of_pair(expected, found)


def problems_of_pair(expected: dict[str, Tensor], found: dict[str, Tensor]) -> str:
    agreement = Agreement()
    agreement.add(expected, found, CUT)
    return "; ".join(agreement.problems())

import pytest
import torch

from detengine.structures.categories import Categories
from detengine.structures.ground_truth import (
    VOID,
    FederatedLabels,
    GroundTruth,
    IgnoredRegions,
    PackedBytes,
    PackedIntegers,
)
from detengine.structures.selection import select


@pytest.fixture
def truth() -> GroundTruth:
    """Three images with 2, 0 and 3 annotations of the classes a (3) and b (7)."""
    return GroundTruth(
        categories=Categories(("a", "b"), (3, 7)),
        image_ids=torch.tensor([30, 10, 20]),
        image_sizes=torch.tensor([[4, 5], [6, 7], [8, 9]]),
        file_names=PackedBytes.from_list([b"x", b"y", b"z"]),
        offsets=torch.tensor([0, 2, 2, 5]),
        annotation_ids=torch.tensor([1, 2, 3, 4, 5]),
        category_ids=torch.tensor([3, 7, 3, 7, 3]),
        boxes_xywh=torch.arange(20, dtype=torch.float64).view(5, 4),
        areas=torch.arange(5, dtype=torch.float64),
        is_crowd=torch.tensor([False, True, False, False, True]),
        is_difficult=torch.zeros(5, dtype=torch.bool),
        masks=PackedBytes.from_list([b"1", b"22", b"", b"4", b"55"]),
        federated=FederatedLabels(
            PackedIntegers.from_lists([[], [3, 7], [7]]),
            PackedIntegers.from_lists([[3, 7], [], []]),
            ("r", "f"),
        ),
        ignored_regions=IgnoredRegions.from_lists([[(VOID, b"v"), (3, b"g")], [], [(7, b"h")]]),
    )


def test_without_a_wish_it_is_the_ground_truth_itself(truth: GroundTruth) -> None:
    assert select(truth) is truth


def test_images_keep_their_order_and_their_annotations(truth: GroundTruth) -> None:
    chosen = select(truth, image_ids=[20, 30])
    assert chosen.image_ids.tolist() == [30, 20]
    assert chosen.image_sizes.tolist() == [[4, 5], [8, 9]]
    assert [chosen.file_name(n) for n in range(2)] == ["x", "z"]
    assert chosen.offsets.tolist() == [0, 2, 5]
    assert chosen.annotation_ids.tolist() == [1, 2, 3, 4, 5]
    assert chosen.federated is not None
    assert chosen.federated.negative_ids(1) == [7]
    assert chosen.ignored_regions is not None
    assert chosen.ignored_regions.of_image(1) == [(7, b"h")]


def test_classes_keep_all_images_and_lose_the_others_annotations(truth: GroundTruth) -> None:
    chosen = select(truth, class_names=["b"])
    assert chosen.categories == Categories(("b",), (7,))
    assert len(chosen) == 3
    assert chosen.offsets.tolist() == [0, 1, 1, 2]
    assert chosen.annotation_ids.tolist() == [2, 4]
    assert chosen.boxes_xywh.tolist() == [[4, 5, 6, 7], [12, 13, 14, 15]]
    assert chosen.is_crowd.tolist() == [True, False]
    assert chosen.masks is not None
    assert [chosen.masks[n] for n in range(2)] == [b"22", b"4"]
    assert chosen.federated is not None
    assert chosen.federated.frequencies == ("f",)
    assert [chosen.federated.negative_ids(n) for n in range(3)] == [[], [7], [7]]
    assert chosen.ignored_regions is not None
    assert chosen.ignored_regions.of_image(0) == [(VOID, b"v")]


def test_images_and_classes_together_are_the_one_after_the_other(truth: GroundTruth) -> None:
    both = select(truth, class_names=["a"], image_ids=[10, 20])
    one_by_one = select(select(truth, image_ids=[10, 20]), class_names=["a"])
    assert both.digest() == one_by_one.digest()


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"class_names": ["c"]}, "by the classes 'c': the data set has 'a', 'b'"),
        ({"class_names": []}, r"by the classes \[\]: the data set has 'a', 'b'"),
        (
            {"image_ids": [5, 10]},
            "by the images 5: the data set has 3 images, with the ids 30, 10, 2",
        ),
        ({"image_ids": []}, r"by the images \[\]: the data set has 3"),
    ],
)
def test_what_is_not_there_is_refused(truth: GroundTruth, wish: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(truth, **wish)

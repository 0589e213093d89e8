import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import v2

from detengine.data.randomness import seeded
from detengine.data.transforms import RandomCrop, ShortestEdgeResize, transform_sample
from detengine.structures.batch import Sample
from detengine.structures.masks import RunLengthMasks


def _runs(mask: np.ndarray) -> Tensor:
    """Run lengths of one dense mask, column by column, beginning outside."""
    flat = np.concatenate([[0], mask.T.ravel(), [1 - mask.T.ravel()[-1]]])
    ends = np.flatnonzero(np.diff(flat))
    return torch.from_numpy(np.diff(np.concatenate([[0], ends])))


def _sample(height: int = 40, width: int = 60) -> tuple[Sample, Tensor]:
    """Two ellipses, drawn in the image as well; and their dense masks uint8[2, H, W]."""
    y, x = np.mgrid[:height, :width]
    masks = np.stack(
        [
            ((x - 15) / 9) ** 2 + ((y - 14) / 11) ** 2 < 1,
            ((x - 42) / 14) ** 2 + ((y - 26) / 10) ** 2 < 1,
        ]
    ).astype(np.uint8)
    boxes = [[m.any(0).nonzero()[0], m.any(1).nonzero()[0]] for m in masks]
    target = {
        "boxes": torch.tensor([[c[0], r[0], c[-1] + 1, r[-1] + 1] for c, r in boxes]).float(),
        "labels": torch.tensor([1, 2]),
        "masks": RunLengthMasks.from_counts([_runs(m) for m in masks], (height, width)),
        "keypoints": torch.tensor([[[15.0, 14.0, 2.0], [20.0, 14.0, 1.0]]] * 2),
        "image_size": torch.tensor([height, width]),
        "original_size": torch.tensor([height, width]),
    }
    image = torch.from_numpy(masks.max(0) * 255).expand(3, -1, -1)
    return Sample(image, target, 7), torch.from_numpy(masks)


def _boxes_of(masks: Tensor) -> Tensor:
    rows, columns = masks.any(dim=2), masks.any(dim=1)
    return torch.stack(
        [
            torch.tensor([c[0], r[0], c[-1] + 1, r[-1] + 1]).float()
            for c, r in ((c.nonzero()[:, 0], r.nonzero()[:, 0]) for c, r in zip(columns, rows))  # noqa: B905
        ]
    )


@pytest.mark.parametrize(
    ("stages", "move"),
    [
        ([v2.RandomHorizontalFlip(1)], lambda m: m.flip(2)),
        ([v2.RandomVerticalFlip(1)], lambda m: m.flip(1)),
        ([v2.RandomHorizontalFlip(1), v2.RandomVerticalFlip(1)], lambda m: m.flip(1, 2)),
        ([ShortestEdgeResize((80,), 200)], lambda m: m.kron(torch.ones(1, 2, 2).to(m))),
        ([v2.Pad([3, 5, 0, 0])], lambda m: torch.nn.functional.pad(m, [3, 0, 5, 0])),
    ],
)  # fmt: skip
def test_masks_and_boxes_follow_exactly(stages: list[v2.Transform], move: object) -> None:
    sample, dense = _sample()
    assert callable(move)
    moved = transform_sample(sample, stages, (1, 0))
    expected = move(dense)
    assert torch.equal(moved.target["masks"].dense(), expected)
    assert torch.equal(moved.target["boxes"], _boxes_of(expected))
    assert moved.target["image_size"].tolist() == list(moved.image.shape[1:])
    assert moved.target["original_size"].tolist() == [40, 60]


@pytest.mark.parametrize("seed", range(8))
def test_resized_flipped_and_cropped_masks_lie_on_their_objects_in_the_image(seed: int) -> None:
    sample, _ = _sample()
    stages = [
        v2.RandomHorizontalFlip(0.5),
        ShortestEdgeResize((50, 97, 160), 170),
        RandomCrop((90, 90)),
    ]
    with seeded(seed):
        moved = transform_sample(sample, stages, (1, 0))
    drawn = moved.image[0] > 127
    masks = moved.target["masks"].dense().bool()
    agreeing = (masks.any(dim=0) == drawn).float().mean()
    assert agreeing >= 0.99
    boxes, height, width = moved.target["boxes"], *drawn.shape
    assert (boxes >= 0).all()
    assert (boxes[:, 0::2] <= width).all()
    assert (boxes[:, 1::2] <= height).all()


def test_two_flips_are_no_flip() -> None:
    sample, _ = _sample()
    twice = transform_sample(sample, [v2.RandomHorizontalFlip(1)] * 2, (1, 0))
    assert torch.equal(twice.image, sample.image)
    for key in ("boxes", "labels", "keypoints"):
        assert torch.equal(twice.target[key], sample.target[key])
    assert torch.equal(twice.target["masks"].dense(), sample.target["masks"].dense())


def test_the_given_sample_is_left_as_it_was() -> None:
    sample, _ = _sample()
    before, image = dict(sample.target), sample.image.clone()
    transform_sample(sample, [v2.RandomHorizontalFlip(1), RandomCrop((9, 9))], (1, 0))
    assert sample.target == before
    assert torch.equal(sample.image, image)


def test_a_mirrored_skeleton_changes_its_sides() -> None:
    sample, _ = _sample()
    for flip in (v2.RandomHorizontalFlip(1), v2.RandomVerticalFlip(1)):
        moved = transform_sample(sample, [flip], (1, 0)).target["keypoints"]
        assert moved[0, :, 2].tolist() == [1.0, 2.0]
    moved = transform_sample(sample, [v2.RandomHorizontalFlip(1)], (1, 0)).target["keypoints"]
    assert moved[0, :, :2].tolist() == [[60 - 1 - 20, 14], [60 - 1 - 15, 14]]


def test_a_flip_without_known_sides_is_refused_with_the_keys() -> None:
    sample, _ = _sample()
    with pytest.raises(ValueError, match=r"left and right is not known.*HORIZONTAL_FLIP_PROB"):
        transform_sample(sample, [v2.RandomHorizontalFlip(1)])
    transform_sample(sample, [ShortestEdgeResize((20,), 100)])


def test_objects_of_which_nothing_is_left_are_dropped_and_keypoints_outside_are_invisible() -> None:
    sample, dense = _sample()

    class LeftPart(v2.Transform):
        def transform(self, inpt: object, params: dict[str, object]) -> object:
            return self._call_kernel(v2.functional.crop, inpt, top=0, left=0, height=40, width=18)

    moved = transform_sample(sample, [LeftPart()])
    assert moved.target["labels"].tolist() == [1]
    assert len(moved.target["boxes"]) == len(moved.target["masks"]) == 1
    assert torch.equal(moved.target["masks"].dense(), dense[:1, :, :18])
    assert moved.target["keypoints"].tolist() == [[[15.0, 14.0, 2.0], [0.0, 0.0, 0.0]]]
    assert moved.image.untyped_storage().nbytes() == 3 * 40 * 18


def test_an_image_without_objects_stays_an_image_without_objects() -> None:
    sample, _ = _sample()
    nothing = torch.empty(0, dtype=torch.int64)
    empty = {
        **sample.target,
        "boxes": torch.empty(0, 4),
        "labels": nothing,
        "masks": sample.target["masks"][nothing],
        "keypoints": torch.empty(0, 2, 3),
    }
    stages = [v2.RandomHorizontalFlip(1), ShortestEdgeResize((33,), 99), RandomCrop((20, 20))]
    target = transform_sample(sample._replace(target=empty), stages, (1, 0)).target
    assert target["boxes"].shape == (0, 4)
    assert target["keypoints"].shape == (0, 2, 3)
    assert target["masks"].dense().shape == (0, 20, 20)


def test_an_evaluation_sample_needs_no_annotations() -> None:
    size = torch.tensor([40, 60])
    sample = Sample(_sample()[0].image, {"image_size": size, "original_size": size}, 1)
    moved = transform_sample(sample, [ShortestEdgeResize((20,), 100)])
    assert moved.target.keys() == {"image_size", "original_size"}
    assert moved.target["image_size"].tolist() == [20, 30]
    assert moved.target["original_size"].tolist() == [40, 60]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (800, 1067)), ((640, 480), (1067, 800)), ((200, 1000), (267, 1333)),
     ((333, 500), (800, 1201)), ((800, 800), (800, 800)), ((1, 9000), (1, 1333))],
)  # fmt: skip
def test_the_shorter_edge_is_scaled_unless_the_longer_gets_too_long(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    sample = Sample(torch.zeros(3, *size, dtype=torch.uint8), {}, 1)
    assert transform_sample(sample, [ShortestEdgeResize((800,), 1333)]).image.shape[1:] == expected


@given(st.integers(0, 2**40))
def test_each_training_scale_is_one_of_those_given(seed: int) -> None:
    sample = Sample(torch.zeros(3, 4, 8, dtype=torch.uint8), {}, 1)
    with seeded(seed):
        image = transform_sample(sample, [ShortestEdgeResize((2, 3, 6), 100)]).image
    assert tuple(image.shape[1:]) in {(2, 4), (3, 6), (6, 12)}


def test_every_training_scale_and_place_of_a_crop_occurs() -> None:
    image = torch.arange(4, dtype=torch.uint8).expand(3, 1, -1)
    with seeded(0):
        samples = [
            transform_sample(Sample(image, {}, 1), [RandomCrop((1, 3))]).image[0, 0].tolist()
            for _ in range(40)
        ]
    assert sorted(map(list, set(map(tuple, samples)))) == [[0, 1, 2], [1, 2, 3]]


def test_a_crop_larger_than_the_image_takes_what_is_there() -> None:
    sample, dense = _sample()
    moved = transform_sample(sample, [RandomCrop((100, 60))])
    assert torch.equal(moved.image, sample.image)
    assert torch.equal(moved.target["masks"].dense(), dense)


def test_sizes_below_one_pixel_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 pixel"):
        ShortestEdgeResize((), 100)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        ShortestEdgeResize((0,), 100)
    with pytest.raises(ValueError, match="at least 1 x 1"):
        RandomCrop((0, 5))


@pytest.mark.parametrize("flip", [0, 1])
def test_an_image_by_pixel_and_one_by_plane_are_resized_to_the_same(flip: int) -> None:
    generator = torch.Generator().manual_seed(5)
    by_plane = torch.randint(0, 256, (3, 61, 83), dtype=torch.uint8, generator=generator)
    by_pixel = by_plane.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    size = torch.tensor([61, 83])
    stages = [v2.RandomHorizontalFlip(flip), ShortestEdgeResize((100,), 1333)]
    one, two = (
        transform_sample(Sample(image, {"original_size": size}, 1), stages).image
        for image in (by_plane, by_pixel)
    )
    assert torch.equal(one, two)
    assert two.permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize("by_pixel", [False, True])
@pytest.mark.parametrize("size", [(20, 30), (61, 30), (20, 83)])
def test_a_crop_has_no_image_behind_it(by_pixel: bool, size: tuple[int, int]) -> None:
    image = torch.arange(3 * 61 * 83).remainder(251).to(torch.uint8).view(3, 61, 83)
    if by_pixel:
        image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    sample = Sample(image, {"original_size": torch.tensor([61, 83])}, 1)
    cropped = transform_sample(sample, [RandomCrop(size)]).image
    assert cropped.shape[1:] == size
    assert cropped.untyped_storage().nbytes() == cropped.nbytes

"""Keypoints move as torchvision's own do, where it has them."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from detengine.data.points import Points

SIZE = (20, 30)
STEPS: dict[str, Any] = {
    "resize": lambda x: F.resize(x, [15, 61]),
    "resize the shorter": lambda x: F.resize(x, [11], max_size=14),
    "resize the longer": lambda x: F.resize(x, None, max_size=77),
    "horizontal flip": F.horizontal_flip,
    "vertical flip": F.vertical_flip,
    "crop": lambda x: F.crop(x, 3, 2, 9, 8),
    "pad": lambda x: F.pad(x, [1, 2, 3, 4]),
    "pad by two numbers": lambda x: F.pad(x, [3, 1]),
    "pad by one number": lambda x: F.pad(x, 2),
    "pad by a list of one": lambda x: F.pad(x, [2]),
    "pad by less than nothing": lambda x: F.pad(x, [-1, 0, 2, -1]),
}


def points_of(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, 4, 2, generator=generator) * torch.tensor([30.0, 20.0])


@pytest.mark.skipif(
    not hasattr(tv_tensors, "KeyPoints"), reason="torchvision has keypoints from 0.23 on"
)
@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=6), st.integers(0, 1000))
def test_after_any_chain_of_transforms_they_are_where_torchvisions_are_to_the_bit(
    names: list[str], seed: int
) -> None:
    points = points_of(seed)
    moved, expected = Points.of(points, SIZE), tv_tensors.KeyPoints(points, canvas_size=SIZE)
    for name in names:
        moved, expected = STEPS[name](moved), STEPS[name](expected)
    assert moved.canvas_size == tuple(expected.canvas_size)
    assert torch.equal(moved.as_subclass(Tensor), expected.as_subclass(Tensor))


@pytest.mark.parametrize(
    ("name", "expected", "size"),
    [
        ("resize", [30.5, 3.0], (15, 61)),
        ("horizontal flip", [14.0, 4.0], (20, 30)),
        ("vertical flip", [15.0, 15.0], (20, 30)),
        ("crop", [13.0, 1.0], (9, 8)),
        ("pad", [16.0, 6.0], (26, 34)),
    ],
)
def test_each_transform_by_hand(name: str, expected: list[float], size: tuple[int, int]) -> None:
    moved = STEPS[name](Points.of(torch.tensor([15.0, 4.0]), SIZE))
    assert moved.tolist() == expected
    assert moved.canvas_size == size


def test_padding_that_repeats_objects_is_refused() -> None:
    points = Points.of(points_of(0), SIZE)
    with pytest.raises(ValueError, match="mode 'reflect' repeats objects"):
        F.pad(points, [1, 1, 1, 1], padding_mode="reflect")

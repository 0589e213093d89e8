from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from detengine.data.frame import Frame
from detengine.structures.masks import IDENTITY

SIZE = (20, 30)
STEPS: dict[str, Any] = {
    "resize": lambda x: F.resize(x, [15, 60]),
    "resize the shorter": lambda x: F.resize(x, [10], max_size=14),
    "horizontal flip": F.horizontal_flip,
    "vertical flip": F.vertical_flip,
    "crop": lambda x: F.crop(x, 3, 2, 9, 8),
    "pad": lambda x: F.pad(x, [1, 2, 3, 4]),
    "pad by one number": lambda x: F.pad(x, 2),
}


def _to_stored(frame: Frame, points: Tensor) -> Tensor:
    scale_x, shift_x, scale_y, shift_y = frame.affine()
    x, y = points.unbind(-1)
    return torch.stack([scale_x * x + shift_x, scale_y * y + shift_y], dim=-1)


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=6))
def test_any_chain_of_transforms_leads_back_to_the_stored_boxes(names: list[str]) -> None:
    boxes = torch.tensor([[4.0, 5.0, 9.0, 8.0]], dtype=torch.float64)
    moved = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=SIZE)
    frame = Frame.of(SIZE)
    for name in names:
        moved, frame = STEPS[name](moved), STEPS[name](frame)
        (x1, y1, x2, y2), (height, width) = moved[0].tolist(), moved.canvas_size
        assume(x1 > 0 and y1 > 0 and x2 < width and y2 < height)  # no crop has cut it off
    assert frame.canvas_size == tuple(moved.canvas_size)
    assert frame.is_mirrored() == (sum("flip" in name for name in names) % 2 == 1)
    corners = _to_stored(frame, moved.as_subclass(Tensor).view(2, 2))
    found = torch.cat([corners.amin(dim=0), corners.amax(dim=0)])
    torch.testing.assert_close(found, boxes[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandomRotation((30, 31)),
        v2.RandomAffine((30, 31)),
        v2.RandomPerspective(p=1),
        v2.ElasticTransform(),
        v2.CenterCrop(5),
        v2.RandomResizedCrop(5),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_a_geometry_that_masks_cannot_follow_is_refused(transform: v2.Transform) -> None:
    image = tv_tensors.Image(torch.zeros(3, 64, 64, dtype=torch.uint8))
    with pytest.raises(TypeError, match="masks and keypoints cannot follow"):
        transform({"image": image, "frame": Frame.of((64, 64))})


def test_colours_leave_the_frame_as_it_is() -> None:
    image = tv_tensors.Image(torch.zeros(3, *SIZE, dtype=torch.uint8))
    moved = v2.ColorJitter(0.5, 0.5, 0.5, 0.1)({"image": image, "frame": Frame.of(SIZE)})
    assert moved["frame"].affine() == IDENTITY
    assert moved["frame"].canvas_size == SIZE

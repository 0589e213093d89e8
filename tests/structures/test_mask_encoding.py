from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detengine.structures.mask_encoding import encode_mask_probs

RECORDED = Path(__file__).parents[2] / "../shared/golden/small/mask_paste.npz"


def _paste_and_encode(mask_probs, boxes_xyxy, size, threshold=0.5):
    return [
        coco_mask.encode(np.asfortranarray(_paste(mask, box, size) > threshold, dtype=np.uint8))
        for mask, box in zip(mask_probs, boxes_xyxy, strict=True)
    ]


def _paste(mask, box, size):
    try:
        return paste_masks_in_image(mask[None, None], box[None], size)[0, 0].numpy()
    except RuntimeError:  # so it does of some boxes that miss the image
        return np.zeros(size)


SIDES = (1, 2, 3, 5, 7, 14, 28, 33, 56)
KINDS = ("noise", "blobs", "halves", "quarters", "constant", "empty", "full", "float16")
PLACES = ("inside", "over edges", "far over edges", "whole image", "tiny", "thin", "inverted")


def _mask_probs(kind, number, side, generator):
    """float[number, side, side] in [0, 1]. Of halves and quarters, many equal the threshold."""
    noise = torch.rand(number, side, side, generator=generator)
    if kind == "blobs":
        line = torch.linspace(-1, 1, side)
        return (8 * (0.9 - line[:, None] ** 2 - line**2) + noise).sigmoid()
    if kind in ("halves", "quarters"):
        steps = 2 if kind == "halves" else 4
        return (steps * noise).round() / steps
    if kind == "constant":
        return noise[:, :1, :1].round(decimals=1).expand(number, side, side)
    if kind in ("empty", "full"):
        return torch.full_like(noise, float(kind == "full"))
    return noise.half() if kind == "float16" else noise


def _boxes(place, number, size, generator):
    corners = torch.rand(number, 2, 2, generator=generator)
    if "over edges" in place:
        corners = corners * 2 - 0.5 if place == "over edges" else corners * 12 - 5.5
    if place != "inverted":
        corners = corners.sort(dim=1).values
    boxes_xyxy = (corners * torch.tensor(size[::-1])).view(number, 4)
    if place == "whole image":
        boxes_xyxy = torch.tensor([[0, 0, size[1], size[0]]] * number).view(number, 4).float()
    if place == "tiny":
        boxes_xyxy[:, 2:] = boxes_xyxy[:, :2] + 4 * torch.rand(number, 2, generator=generator)
    if place == "thin":
        boxes_xyxy[:, 2] = boxes_xyxy[:, 0] + torch.rand(number, generator=generator)
    return boxes_xyxy


@settings(max_examples=600, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    number=st.integers(0, 6),
    side=st.sampled_from(SIDES),
    kind=st.sampled_from(KINDS),
    place=st.sampled_from(PLACES),
    grain=st.sampled_from([0, 1, 0.5]),
    threshold=st.sampled_from([0.5, 0.25, 0.3, 0.9, 1.0, 1e-7, 0.0]) | st.floats(0, 1),
)
@example(0, (37, 53), 3, 28, "halves", "whole image", 1, 0.5)
@example(1, (200, 260), 3, 28, "constant", "inside", 0, 0.5)
def test_masks_are_those_pasted_and_encoded_to_the_byte(
    seed, size, number, side, kind, place, grain, threshold
):
    generator = torch.Generator().manual_seed(seed)
    mask_probs = _mask_probs(kind, number, side, generator)
    boxes_xyxy = _boxes(place, number, size, generator)
    if grain:  # whole pixels, and halves of them
        boxes_xyxy = (boxes_xyxy / grain).round() * grain
    expected = _paste_and_encode(mask_probs.float(), boxes_xyxy, size, threshold)
    assert encode_mask_probs(mask_probs, boxes_xyxy, size, threshold) == expected


@pytest.mark.parametrize("side", [14, 28, 56])
@pytest.mark.parametrize("size", [(480, 640), (800, 1333)])
def test_large_masks_are_those_pasted_and_encoded(size, side):
    generator = torch.Generator().manual_seed(side)
    corners = torch.rand(12, 2, 2, generator=generator).sort(dim=1).values * 1.4 - 0.2
    boxes_xyxy = (corners * torch.tensor(size[::-1])).view(12, 4)
    for kind in ("blobs", "noise", "halves"):
        mask_probs = _mask_probs(kind, 12, side, generator)
        expected = _paste_and_encode(mask_probs, boxes_xyxy, size)
        assert encode_mask_probs(mask_probs, boxes_xyxy, size) == expected


@pytest.mark.parametrize("strange", [torch.nan, torch.inf, -torch.inf, -3.0, 7.5, 1e30])
@pytest.mark.parametrize("threshold", [0.5, 3.0])
def test_probabilities_that_are_none_are_pasted_all_the_same(strange, threshold):
    mask_probs = _mask_probs("blobs", 3, 14, torch.Generator().manual_seed(0))
    mask_probs[1, 5:9, 4:6] = strange
    boxes_xyxy = torch.tensor([[3.0, 4, 90, 50], [10, 0, 61, 70], [0, 0, 9, 9]])
    expected = _paste_and_encode(mask_probs, boxes_xyxy, (75, 100), threshold)
    assert encode_mask_probs(mask_probs, boxes_xyxy, (75, 100), threshold) == expected


def test_what_one_mask_is_does_not_depend_on_the_others():
    generator = torch.Generator().manual_seed(3)
    mask_probs = _mask_probs("noise", 40, 28, generator)
    mask_probs[::7] = 0.5  # for the kernel alone to decide
    boxes_xyxy = _boxes("over edges", 40, (300, 400), generator)
    together = encode_mask_probs(mask_probs, boxes_xyxy, (300, 400))
    one_by_one = [
        encode_mask_probs(mask_probs[n : n + 1], boxes_xyxy[n : n + 1], (300, 400))[0]
        for n in range(40)
    ]
    assert together == one_by_one


def test_a_box_longer_than_is_remembered_gives_the_mask_pasted_and_encoded():
    mask_probs = _mask_probs("blobs", 1, 28, torch.Generator().manual_seed(0))
    boxes_xyxy = torch.tensor([[-50.0, 3, 9500, 40]])
    expected = _paste_and_encode(mask_probs, boxes_xyxy, (50, 9400))
    assert encode_mask_probs(mask_probs, boxes_xyxy, (50, 9400)) == expected


def test_a_hundred_masks_of_a_photograph_are_those_pasted_and_encoded():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(100, 2, 2, generator=generator).sort(dim=1).values
    boxes_xyxy = (corners * torch.tensor([640, 480])).view(100, 4)
    mask_probs = torch.randn(100, 28, 28, generator=generator).sigmoid()
    expected = _paste_and_encode(mask_probs, boxes_xyxy, (480, 640))
    assert encode_mask_probs(mask_probs, boxes_xyxy, (480, 640)) == expected


@pytest.mark.parametrize("x", [(0, 20), (7, 20), (7, 30), (0, 30)])
@pytest.mark.parametrize("y", [(0, 10), (5, 10), (5, 15), (0, 15)])
def test_masks_that_touch_the_edges_of_the_image_are_those_pasted_and_encoded(x, y):
    boxes_xyxy = torch.tensor([[x[0], y[0], x[1], y[1]]]).float()
    mask_probs = torch.ones(1, 14, 14)
    expected = _paste_and_encode(mask_probs, boxes_xyxy, (15, 30))
    assert encode_mask_probs(mask_probs, boxes_xyxy, (15, 30)) == expected


@pytest.mark.parametrize(
    "box", [[-50, -50, -20, -20], [200, 10, 220, 30], [10, 99, 30, 150], [30, 5, 10, 2]]
)
def test_a_box_that_misses_the_image_gives_an_empty_mask(box):
    (rle,) = encode_mask_probs(torch.ones(1, 4, 4), torch.tensor([box]), (50, 60))
    assert rle["size"] == [50, 60]
    assert coco_mask.area(rle) == 0


def test_no_detections_are_no_masks():
    assert encode_mask_probs(torch.empty(0, 28, 28), torch.empty(0, 4), (50, 60)) == []


def test_masks_and_boxes_must_belong_together():
    with pytest.raises(ValueError, match=r"but got \[2, 4, 4\] and \[3, 4\]"):
        encode_mask_probs(torch.ones(2, 4, 4), torch.ones(3, 4), (50, 60))
    with pytest.raises(ValueError, match="NaN or infinite"):
        encode_mask_probs(torch.ones(1, 4, 4), torch.full((1, 4), torch.nan), (50, 60))


@pytest.mark.skipif(not RECORDED.exists(), reason="../shared/golden is absent")
@pytest.mark.parametrize(
    ("masks", "pasted", "threshold"),
    [
        ("masks", "masker_thresh0.5_pad1", 0.5),
        ("masks", "masker_thresh0.3_pad1", 0.3),
        ("masks", "masker_thresh0.9_pad1", 0.9),
        ("masks14", "masker14_thresh0.5_pad1", 0.5),
    ],
)
def test_pasted_masks_are_the_predecessors(masks, pasted, threshold):
    recorded = np.load(RECORDED)
    width, height = recorded["image_wh"].tolist()
    probs, boxes = (torch.from_numpy(recorded[key]) for key in (masks, "boxes"))
    rles = encode_mask_probs(probs[:, 0], boxes, (height, width), threshold)
    expected = np.unpackbits(recorded[pasted], axis=-1, count=width)[:, 0]
    strings = [coco_mask.encode(np.asfortranarray(mask))["counts"] for mask in expected]
    assert [rle["counts"] for rle in rles] == strings

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detengine.structures.rle import decode_counts, encode_counts, encode_mask_probs

RECORDED = Path(__file__).parents[2] / "../shared/golden/small/mask_paste.npz"


@st.composite
def _masks(draw):
    """A mask of a few random rectangles, so that runs of all lengths come up."""
    height, width = draw(st.integers(1, 200)), draw(st.integers(1, 200))
    mask = np.zeros((height, width), dtype=np.uint8, order="F")
    for _ in range(draw(st.integers(0, 4))):
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        mask[y : draw(st.integers(y, height)), x : draw(st.integers(x, width))] ^= 1
    return mask


def _runs(mask):
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(pixels, prepend=np.uint8(0)))
    return np.diff(np.concatenate([[0], changes, [len(pixels)]]))


@settings(max_examples=60, deadline=None)
@given(_masks())
def test_strings_and_runs_are_those_of_pycocotools(mask):
    string = coco_mask.encode(mask)["counts"]
    assert encode_counts(_runs(mask)) == string
    assert np.array_equal(decode_counts(string), _runs(mask))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), max_size=20))
@example([0, 2**32 - 1, 0, 2**32 - 1, 0, 0, 0])
@example([15, 16, 17, 31, 33, 512, 511, 16384])
def test_decoding_undoes_encoding_for_any_runs(counts):
    decoded = decode_counts(encode_counts(np.array(counts, dtype=np.int64)))
    assert decoded.dtype == np.int64
    assert decoded.tolist() == counts


def test_the_empty_string_has_no_runs():
    assert len(decode_counts(b"")) == 0
    assert encode_counts(np.empty(0, dtype=np.int64)) == b""


@pytest.mark.parametrize(
    ("string", "message"),
    [
        (b"04 4", "the byte b' ' at position 2 of 4"),
        ("0\u00e94".encode(), "the byte b'\\\\xc3' at position 1"),
        (b"04P", "ends within a number: is it cut off"),
        (b"oooooooo0", "more than 32 bits"),
        (b"5O", "has a run of -1 pixels"),
        (b"PPPPPP4", "has a run of 4294967296 pixels"),
    ],
)
def test_a_damaged_string_says_what_is_wrong(string, message):
    with pytest.raises(ValueError, match=message):
        decode_counts(string)


def test_runs_that_do_not_fit_are_refused():
    for counts in ([3, -1], [1 << 32]):
        with pytest.raises(ValueError, match="a run length must be 0 to"):
            encode_counts(np.array(counts))


def _paste_and_encode(mask_probs, boxes_xyxy, size, threshold=0.5):
    pasted = paste_masks_in_image(mask_probs[:, None], boxes_xyxy, size)[:, 0] > threshold
    return [coco_mask.encode(np.asfortranarray(mask.numpy(), dtype=np.uint8)) for mask in pasted]


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 260), st.integers(1, 260)),
    number=st.integers(0, 5),
    side=st.integers(1, 33),
    kind=st.sampled_from(["inside", "over edges", "whole image", "integer", "zero", "inverted"]),
    threshold=st.sampled_from([0.5, 0.3, 0.0]),
)
def test_masks_are_those_pasted_and_encoded_to_the_byte(seed, size, number, side, kind, threshold):
    generator = torch.Generator().manual_seed(seed)
    mask_probs = torch.rand(number, side, side, generator=generator)
    if seed % 2:
        mask_probs = mask_probs.round()  # large areas, and values at the threshold between them
    corners = torch.rand(number, 2, 2, generator=generator)
    if kind == "over edges":
        corners = corners * 2 - 0.5
    if kind != "inverted":
        corners = corners.sort(dim=1).values
    boxes_xyxy = (corners * torch.tensor(size[::-1])).view(number, 4)
    if kind == "whole image":
        boxes_xyxy = torch.tensor([[0, 0, size[1], size[0]]] * number).view(number, 4).float()
    if kind == "integer":
        boxes_xyxy = boxes_xyxy.round()
    if kind == "zero":
        boxes_xyxy[:, 2:] = boxes_xyxy[:, :2]
    try:
        expected = _paste_and_encode(mask_probs, boxes_xyxy, size, threshold)
    except RuntimeError:  # torchvision cannot paste some boxes that miss the image
        return
    assert encode_mask_probs(mask_probs, boxes_xyxy, size, threshold) == expected


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

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as oracle
from torch import Tensor
from torchvision.ops import roi_align

from detengine.data.segmentation import encode_segmentation
from detengine.structures.masks import RunLengthMasks
from detengine.structures.rle import decode_counts

SIZE = (13, 17)
RECORDED = Path(__file__).parents[2] / "../shared/golden/small/mask_targets.npz"


def _pack(dense: Tensor) -> RunLengthMasks:
    """From uint8[N, H, W], by way of pycocotools."""
    strings = [oracle.encode(np.asfortranarray(mask.numpy()))["counts"] for mask in dense]
    counts = [torch.from_numpy(decode_counts(string)) for string in strings]
    return RunLengthMasks.from_counts(counts, (dense.shape[1], dense.shape[2]))


def _random(seed: int, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (count, *SIZE), dtype=torch.uint8, generator=generator)


def _blobs(height: int, width: int) -> Tensor:
    """uint8[2, H, W]: an ellipse and a ring."""
    y = torch.arange(height)[:, None] + 0.5
    x = torch.arange(width)[None, :] + 0.5
    far = ((x - 0.4 * width) / (0.3 * width)) ** 2 + ((y - 0.5 * height) / (0.4 * height)) ** 2
    return torch.stack([far < 1, (far < 1) & (far > 0.3)]).to(torch.uint8)


@given(st.integers(0, 10**6), st.integers(0, 4))
def test_dense_is_what_pycocotools_decodes(seed: int, count: int) -> None:
    dense = _random(seed, count)
    assert torch.equal(_pack(dense).dense(), dense)


def test_all_and_nothing_inside() -> None:
    dense = torch.stack([torch.zeros(SIZE), torch.ones(SIZE)]).to(torch.uint8)
    masks = _pack(dense)
    assert torch.equal(masks.dense(), dense)
    points = masks.contains(torch.tensor([0, 1]), torch.tensor(3.0), torch.tensor(4.0))
    assert points.tolist() == [False, True]


@given(st.integers(0, 10**6))
def test_a_point_is_inside_where_its_pixel_is(seed: int) -> None:
    dense = _random(seed)
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(3, (50,), generator=generator)
    x = torch.rand(50, generator=generator) * 2 * SIZE[1] - SIZE[1] / 2
    y = torch.rand(50, generator=generator) * 2 * SIZE[0] - SIZE[0] / 2
    on_image = (x >= 0) & (x < SIZE[1]) & (y >= 0) & (y < SIZE[0])
    column, row = x.long().clamp(0, SIZE[1] - 1), y.long().clamp(0, SIZE[0] - 1)
    expected = dense[index, row, column].bool() & on_image
    assert torch.equal(_pack(dense).contains(index, x, y), expected)


@given(st.integers(0, 10**6), st.lists(st.integers(0, 4), max_size=6))
def test_choosing_masks_is_choosing_dense_ones(seed: int, chosen: list[int]) -> None:
    dense = _random(seed, 5)
    keep = torch.tensor(chosen, dtype=torch.int64)
    masks = _pack(dense)[keep]
    assert len(masks) == len(chosen)
    assert torch.equal(masks.dense(), dense[keep])
    x, y = torch.tensor(5.5), torch.tensor(6.5)
    assert torch.equal(masks.contains(torch.arange(len(keep)), x, y), dense[keep, 6, 5].bool())


def test_choosing_by_flags_is_choosing_by_positions() -> None:
    masks, flags = _pack(_random(0, 5)), torch.tensor([True, False, False, True, True])
    assert torch.equal(masks[flags].dense(), masks[torch.tensor([0, 3, 4])].dense())
    assert len(masks[torch.zeros(5, dtype=torch.bool)]) == 0


def test_transforms_compose_in_their_order() -> None:
    dense = _random(1)
    width = SIZE[1]
    flipped = _pack(dense).transformed(SIZE, (-1, width, 1, 0))
    assert torch.equal(flipped.dense(), dense.flip(2))
    cropped = flipped.transformed((5, 6), (1, 4, 1, 2))
    assert torch.equal(cropped.dense(), dense.flip(2)[:, 2:7, 4:10])
    doubled = cropped.transformed((10, 12), (0.5, 0, 0.5, 0))
    expected = dense.flip(2)[:, 2:7, 4:10].repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(doubled.dense(), expected)
    upside_down = doubled.transformed((10, 12), (1, 0, -1, 10))
    assert torch.equal(upside_down.dense(), expected.flip(1))


def test_beyond_the_stored_image_nothing_is_inside() -> None:
    masks = _pack(torch.ones(1, *SIZE, dtype=torch.uint8))
    padded = masks.transformed((SIZE[0] + 4, SIZE[1] + 6), (1, -3, 1, -2))
    expected = torch.nn.functional.pad(torch.ones(1, *SIZE, dtype=torch.uint8), [3, 3, 2, 2])
    assert torch.equal(padded.dense(), expected)


def test_mask_targets_agree_with_roi_align_of_the_dense_mask() -> None:
    dense = _blobs(120, 150)
    boxes = torch.tensor([[20.0, 15.0, 110.0, 100.0], [31.5, 20.2, 99.3, 77.7]])
    index = torch.tensor([0, 1])
    found = _pack(dense).crop_and_resize(index, boxes, 28)
    rois = torch.cat([index[:, None].float(), boxes], dim=1)
    aligned = roi_align(dense[:, None].float(), rois, 28, sampling_ratio=2, aligned=True)[:, 0]
    assert found.shape == (2, 28, 28)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert (found == (aligned >= 0.5)).float().mean() >= 0.99
    assert found.mean().item() == pytest.approx(aligned.mean().item(), rel=5e-3)


@pytest.mark.skipif(not RECORDED.exists(), reason="../shared is absent")
@pytest.mark.parametrize(("side", "agreement"), [(14, 0.985), (28, 0.99)])
def test_mask_targets_are_those_of_the_predecessors_polygons(side: int, agreement: float) -> None:
    stored = json.loads(RECORDED.with_name("mask_targets_polygons.json").read_text())
    size = (stored["size_wh"][1], stored["size_wh"][0])
    counts = [decode_counts(encode_segmentation(each, size)) for each in stored["polygons"]]
    masks = RunLengthMasks.from_counts([torch.from_numpy(runs) for runs in counts], size)
    recorded = np.load(RECORDED)
    boxes = torch.from_numpy(recorded["proposals"]).float()
    found = masks.crop_and_resize(torch.arange(len(boxes)), boxes, side)
    expected = torch.from_numpy(recorded[f"targets{side}_from_poly"])
    assert (found == expected).float().mean() >= agreement


def test_mask_targets_are_the_same_before_and_after_resizing() -> None:
    masks, index = _pack(_blobs(60, 80)), torch.tensor([1])
    boxes = torch.tensor([[10.0, 12.0, 50.0, 40.0]])
    resized = masks.transformed((120, 160), (0.5, 0, 0.5, 0))
    assert torch.equal(
        masks.crop_and_resize(index, boxes, 14), resized.crop_and_resize(index, boxes * 2, 14)
    )


@given(st.integers(0, 2**32), st.integers(0, 4))
def test_dense_masks_become_the_runs_that_pycocotools_makes_of_them(seed: int, count: int) -> None:
    dense = _random(seed, count)
    dense[:1, 0, 0] = 1  # then the first run is empty
    ours, theirs = RunLengthMasks.from_dense(dense), _pack(dense)
    assert torch.equal(ours.run_ends, theirs.run_ends)
    assert torch.equal(ours.offsets, theirs.offsets)
    assert torch.equal(ours.dense(), dense)


def test_no_masks_are_masks_too() -> None:
    masks = RunLengthMasks.from_counts([], (4, 5))
    assert len(masks) == 0
    assert masks.dense().shape == (0, 4, 5)
    nothing = torch.empty(0, dtype=torch.int64)
    assert masks[nothing].dense().shape == (0, 4, 5)
    assert masks.crop_and_resize(nothing, torch.empty(0, 4), 28).shape == (0, 28, 28)


@pytest.mark.parametrize("runs", [[3, 4], [10, -4, 14], []])
def test_runs_that_do_not_cover_the_image_are_refused(runs: list[int]) -> None:
    counts = [torch.tensor([20]), torch.tensor(runs, dtype=torch.int64)]
    with pytest.raises(ValueError, match=r"mask 1 cover .* 4 x 5 \(height x width\) has 20"):
        RunLengthMasks.from_counts(counts, (4, 5))

"""Anchors against the predecessor's recording and against torchvision's generator."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.detection import anchor_utils
from torchvision.models.detection.image_list import ImageList

from detengine.modeling.anchors import AnchorGenerator, lies_inside

GOLDEN = Path(__file__).parents[2] / "../shared/golden/small/anchors.npz"
needs_recording = pytest.mark.skipif(not GOLDEN.exists(), reason="../shared is absent")

RATIOS = (0.5, 1.0, 2.0)
PYRAMID = ((32,), (64,), (128,), (256,), (512,))
OCTAVES = tuple(tuple(2 ** (k / 3) * size for k in range(3)) for (size,) in PYRAMID)

RECORDED = {
    "fpn": (PYRAMID, RATIOS, (4, 8, 16, 32, 64)),
    "c4": (((32, 64, 128, 256, 512),), RATIOS, (16,)),
    "c4_straddle_off": (((32, 64, 128, 256, 512),), RATIOS, (16,)),
    "c4_straddle_20": (((32, 64, 128, 256, 512),), RATIOS, (16,)),
    "fbnet": (((16, 32, 64, 128, 256),), RATIOS, (16,)),
    "retinanet": (OCTAVES, RATIOS, (8, 16, 32, 64, 128)),
    "odd": (((24, 57, 100),), (0.3, 0.75, 1.0, 1.7, 3.0), (13,)),
}
STRADDLE = {"c4_straddle_off": -1, "c4_straddle_20": 20}


@needs_recording
@pytest.mark.parametrize("name", RECORDED)
def test_anchors_are_those_of_the_predecessor(name: str) -> None:
    recorded = np.load(GOLDEN)
    sizes, ratios, strides = RECORDED[name]
    generator = AnchorGenerator(sizes, ratios, strides, "detectron")
    features = [torch.empty(1, 1, h, w) for h, w in recorded[f"{name}_grid_sizes_hw"]]
    for level, anchors in enumerate(generator(features, (160, 224))):
        cell = torch.from_numpy(recorded[f"{name}_cell{level}"])
        assert torch.equal(generator.get_buffer(f"cell_anchors_{level}"), cell)
        assert torch.equal(anchors, torch.from_numpy(recorded[f"{name}_level{level}"]))


@needs_recording
@pytest.mark.parametrize("name", RECORDED)
def test_the_same_anchors_lie_inside_as_in_the_predecessor(name: str) -> None:
    recorded = np.load(GOLDEN)
    for image, size in enumerate(recorded[f"{name}_image_sizes_hw"].tolist()):
        for level in range(len(RECORDED[name][2])):
            anchors = torch.from_numpy(recorded[f"{name}_level{level}"])
            expected = torch.from_numpy(recorded[f"{name}_img{image}_visibility{level}"])
            assert torch.equal(lies_inside(anchors, tuple(size), STRADDLE.get(name, 0)), expected)


def test_a_level_of_anchors_is_that_of_torchvisions_generator() -> None:
    sizes = ((16, 40), (64, 100))
    theirs = anchor_utils.AnchorGenerator(sizes, ((0.4, 1.0, 3.0),) * 2)
    # 100 x 130 pixels: the second level's cells are 14 pixels high and 14 wide, not 16.
    features = [torch.empty(2, 1, 13, 17), torch.empty(2, 1, 7, 9)]
    images = ImageList(torch.empty(2, 3, 100, 130), [(100, 130), (90, 100)])
    ours = AnchorGenerator(sizes, (0.4, 1.0, 3.0), (8, 16), "torchvision")
    assert ours.anchors_per_cell == 6
    assert torch.equal(torch.cat(ours(features, (100, 130))), theirs(images, features)[0])


def test_detectron2s_anchors_have_exact_areas_and_ratios_around_the_corners_of_cells() -> None:
    """As its generate_cell_anchors and _grid_anchors have them, but ratio by ratio in a cell."""
    generator = AnchorGenerator(((32, 57),), (0.5, 1.0, 3.0), (16,), "detectron2")
    # 40 pixels high: the third row of cells is cut short, and begins at 32 all the same.
    [anchors] = generator([torch.empty(1, 1, 3, 4)], (40, 64))
    expected = []
    for y, x, ratio, size in product(range(3), range(4), (0.5, 1.0, 3.0), (32, 57)):
        half_width, half_height = size / ratio**0.5 / 2, size * ratio**0.5 / 2
        left, top = 16 * x - half_width, 16 * y - half_height
        expected.append([left, top, left + 2 * half_width, top + 2 * half_height])
    torch.testing.assert_close(anchors, torch.tensor(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("style", ["detectron", "torchvision", "detectron2"])
def test_anchors_move_with_the_model_and_stay_out_of_its_weights(style: str) -> None:
    generator = AnchorGenerator(PYRAMID, RATIOS, (4, 8, 16, 32, 64), style)
    assert generator.state_dict() == {}
    features = [torch.empty(1, 1, 2**k, 2**k, device="meta") for k in range(5, 0, -1)]
    anchors = generator.to("meta")(features, (128, 128))
    assert {(each.dtype, each.device.type) for each in anchors} == {(torch.float32, "meta")}
    assert [len(each) for each in anchors] == [3 * 4**k for k in range(5, 0, -1)]


def test_levels_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"of 2 levels, but the strides \[8\] of 1; give"):
        AnchorGenerator(((32,), (64,)), RATIOS, (8,), "detectron")
    with pytest.raises(ValueError, match=r"differ in number between levels.*the same number"):
        AnchorGenerator(((32,), (64, 128)), RATIOS, (8, 16), "detectron")
    generator = AnchorGenerator(((32,), (64,)), RATIOS, (8, 16), "detectron")
    with pytest.raises(ValueError, match=r"1 feature maps.*2 levels.*\[8, 16\]; give one"):
        generator([torch.empty(1, 1, 4, 4)], (32, 32))

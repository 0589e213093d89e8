"""The predecessor's pixels, boxes and keypoints: its recordings, and its steps one by one."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from detengine.config.load import load_config
from detengine.data.build import build_transforms
from detengine.data.coco import load_coco
from detengine.data.dataset import DetectionDataset, TrainingData
from detengine.data.randomness import seeded
from detengine.data.transforms import PillowResize, RandomCrop, pillow_size, transform_sample
from detengine.data.voc import load_voc
from detengine.structures.batch import Sample
from detengine.structures.masks import RunLengthMasks
from detengine.structures.rle import decode_counts, encode_counts

GOLDEN = Path(__file__).parents[2] / "../shared/golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/golden is absent")
LEFT_TO_RIGHT, TOP_TO_BOTTOM = v2.RandomHorizontalFlip(1), v2.RandomVerticalFlip(1)


def _image(height: int, width: int) -> Tensor:
    return torch.zeros(3, height, width, dtype=torch.uint8)


def _moved(
    boxes: Tensor, size: tuple[int, int], stages: Sequence[v2.Transform], **parts: Any
) -> dict[str, Any]:
    """The target of inclusive boxes in an image of (height, width), after the stages."""
    labels = torch.arange(1, len(boxes) + 1)
    sample = Sample(_image(*size), {"boxes": boxes, "labels": labels, **parts}, 1)
    moved: dict[str, Any] = transform_sample(
        sample, stages, range(17), inclusive_pixels=True
    ).target
    return moved


# Resizing


@needs_golden
def test_sizes_are_the_recorded_ones() -> None:
    recorded = json.loads((GOLDEN / "small/resize_sizes.json").read_text())
    for each in recorded:
        width, height = each["image_wh"]
        no_limit = 10**9
        size = pillow_size((height, width), each["min_size"], each["max_size"] or no_limit)
        assert list(size) == each["out_hw"], each
    assert len(recorded) > 50


@pytest.mark.parametrize(
    ("size", "expected"), [((1, 9000), (1, 1333)), ((9000, 2), (1333, 1)), ((1, 1), (800, 800))]
)
def test_an_edge_that_would_vanish_is_one_pixel(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert pillow_size(size, 800, 1333) == expected
    assert transform_sample(
        Sample(_image(*size), {}, 1), [PillowResize((800,), 1333)]
    ).image.shape == (3, *expected)


@needs_golden
@pytest.mark.parametrize("index", [0, 1])
def test_resized_pixels_are_the_recorded_ones(index: int) -> None:
    recorded = np.load(GOLDEN / "common/preprocessed_div32_caffe.npz")
    picture = np.load(GOLDEN / "common/images.npz")[f"image{index}"]
    cfg = load_config(None, ["INPUT.MIN_SIZE_TEST", "320", "INPUT.MAX_SIZE_TEST", "533"])
    sample = Sample(torch.from_numpy(picture).permute(2, 0, 1), {}, 1)
    image = transform_sample(sample, build_transforms(cfg, is_train=False)).image
    height, width = recorded["image_sizes_hw"][index]
    mean = recorded["pixel_mean"][:, None, None]
    in_bgr = recorded["tensor"][index, :, :height, :width] + mean
    assert np.array_equal(image.numpy()[::-1], in_bgr.round().astype(np.uint8))
    assert np.abs(in_bgr - in_bgr.round()).max() < 1e-4


def test_pillow_sizes_below_one_pixel_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 pixel"):
        PillowResize((0,), 100)


def test_every_size_of_training_occurs() -> None:
    stages = [PillowResize((2, 3, 6), 100)]
    shapes = set()
    for seed in range(30):
        with seeded(seed):
            image = transform_sample(Sample(_image(4, 8), {}, 1), stages).image
        shapes.add(tuple(image.shape[1:]))
    assert shapes == {(2, 4), (3, 6), (6, 12)}


# Boxes and keypoints


@needs_golden
def test_boxes_of_the_recorded_coco_set_are_the_recorded_ones(tmp_path: Path) -> None:
    folder = GOLDEN / "small/datasets/coco"
    recorded = json.loads((GOLDEN / "small/datasets/coco_expected.json").read_text())
    for name in ("instances", "person_keypoints"):
        content = json.loads((folder / f"{name}.json").read_text())
        # annotation 9 lies outside of its image: the predecessor drops it, the reader refuses it
        content["annotations"] = [each for each in content["annotations"] if each["id"] != 9]
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        truth = load_coco(path, folder / "images", name)
        dataset = DetectionDataset(
            name, truth, folder / "images", truth.categories.names, inclusive_pixels=True
        )
        position = {image_id: index for index, image_id in enumerate(truth.image_ids.tolist())}
        expected = recorded[f"{name},remove_images_without_annotations=False"]
        for image_id, item in zip(expected["ids"], expected["items"], strict=True):
            target = dataset[position[image_id]].target
            assert target["boxes"].tolist() == item["boxes"]
            assert target["labels"].tolist() == item["labels"]


@needs_golden
def test_boxes_of_the_recorded_voc_set_are_the_recorded_ones() -> None:
    folder = GOLDEN / "small/datasets/VOC"
    recorded = json.loads((GOLDEN / "small/datasets/voc_expected.json").read_text())
    expected = recorded["use_difficult=False"]
    truth = load_voc(folder, "test", tuple(expected["classes"][1:]), "voc")
    dataset = DetectionDataset(
        "voc", truth, folder / "JPEGImages", truth.categories.names, inclusive_pixels=True
    )
    for index, item in enumerate(expected["items"]):
        assert dataset[index].target["boxes"].tolist() == item["boxes"]
        assert dataset[index].target["labels"].tolist() == item["labels"]


@needs_golden
@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("resize_450x300", v2.Resize((300, 450))),
        ("resize_333x150", v2.Resize((150, 333))),
        ("flip_lr", LEFT_TO_RIGHT),
        ("flip_tb", TOP_TO_BOTTOM),
    ],
)
def test_boxes_move_as_recorded(name: str, stage: v2.Transform) -> None:
    recorded = np.load(GOLDEN / "small/ops.npz")
    boxes, expected = (torch.from_numpy(recorded[key]) for key in ("nms_boxes", name))
    moved = _moved(boxes, (200, 300), [stage])
    kept = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)
    assert torch.allclose(moved["boxes"], expected[kept], rtol=0, atol=1e-4)


@needs_golden
def test_keypoints_move_as_recorded() -> None:
    recorded = np.load(GOLDEN / "small/keypoints.npz")
    keypoints = torch.from_numpy(recorded["gt_keypoints"])
    width, height = recorded["size_wh"].tolist()
    boxes = torch.tensor([0.0, 0.0, 9.0, 9.0]).repeat(len(keypoints), 1)
    flip = recorded["flip_inds"].tolist()
    target = {"boxes": boxes, "labels": torch.ones(len(boxes)).long(), "keypoints": keypoints}
    sample = Sample(_image(height, width), target, 1)
    for stage, name in ((LEFT_TO_RIGHT, "flipped"), (v2.Resize((450, 300)), "resized_300x450")):
        moved = transform_sample(sample, [stage], flip, inclusive_pixels=True).target["keypoints"]
        # what is absent keeps its place in the predecessor's resize and is never looked at
        expected = torch.from_numpy(recorded[name])
        expected = expected * (expected[..., 2:] > 0)
        assert torch.allclose(moved, expected, rtol=0, atol=1e-4)


def _step_by_step(
    box: Sequence[float], size: tuple[int, int], new_size: tuple[int, int], flips: Sequence[str]
) -> list[float]:
    """A continuous box through the predecessor's steps: closed, clipped, resized, mirrored."""
    (height, width), (new_height, new_width) = size, new_size
    x1, y1, x2, y2 = box[0], box[1], box[2] - 1, box[3] - 1
    x1, x2 = (min(max(x, 0), width - 1) for x in (x1, x2))
    y1, y2 = (min(max(y, 0), height - 1) for y in (y1, y2))
    x1, x2 = (x * new_width / width for x in (x1, x2))
    y1, y2 = (y * new_height / height for y in (y1, y2))
    for flip in flips:
        if flip == "x":
            x1, x2 = new_width - x2 - 1, new_width - x1 - 1
        else:
            y1, y2 = new_height - y2, new_height - y1
    return [x1, y1, x2, y2]


@pytest.mark.parametrize("flips", ["", "x", "y", "xy", "xx", "xyx"])
@pytest.mark.parametrize("min_size", [15, 20, 47])
def test_a_training_target_is_that_of_the_predecessors_steps(
    make_coco: Callable[..., Path], flips: str, min_size: int
) -> None:
    boxes = [[2, 3, 10, 12], [-4, 3, 9, 30], [0, 0, 30, 20], [3.5, 2.25, 1.5, 4], [9, 9, 1, 5]]
    path = make_coco([(20, 30)], [{"image_id": 1, "category_id": 10, "bbox": b} for b in boxes])
    truth = load_coco(path, path.parent, "pets")
    dataset = DetectionDataset("pets", truth, path.parent, ("cat", "dog"), inclusive_pixels=True)
    resize = PillowResize((min_size,), 1000)
    stages = [resize, *(LEFT_TO_RIGHT if flip == "x" else TOP_TO_BOTTOM for flip in flips)]
    image, target, _ = TrainingData([dataset], stages, seed=0)[0, 0]
    new_size = (image.shape[1], image.shape[2])
    assert new_size == pillow_size((20, 30), min_size, 1000)
    expected = [
        _step_by_step([x, y, x + w, y + h], (20, 30), new_size, flips)
        for x, y, w, h in boxes
        if w > 1 and h > 1
    ]
    assert torch.allclose(target["boxes"], torch.tensor(expected), rtol=0, atol=1e-5)


def test_a_mask_is_mirrored_as_its_polygon(make_coco: Callable[..., Path]) -> None:
    """As the predecessor's polygons are: x to width - 1 - x, y to height - 1 - y."""
    mask = torch.zeros(1, 6, 8, dtype=torch.uint8)
    mask[0, 1:4, 2:5] = 1
    flat = mask[0].T.flatten()
    runs = torch.diff((flat.diff() != 0).nonzero()[:, 0] + 1, prepend=torch.tensor([0]))
    runs = torch.cat([runs, torch.tensor([48 - int(runs.sum())])])
    stored = decode_counts(encode_counts(runs.numpy()))
    masks = RunLengthMasks.from_counts([torch.from_numpy(stored)], (6, 8))
    box = torch.tensor([[2.0, 1.0, 4.0, 3.0]])
    for stage, dims, shift in ((LEFT_TO_RIGHT, 2, -1), (TOP_TO_BOTTOM, 1, -1)):
        moved = _moved(box, (6, 8), [stage], masks=masks)["masks"].dense()
        expected = mask.flip(dims).roll(shift, dims)
        assert torch.equal(moved, expected)


def test_boxes_at_the_edge_of_a_crop_end_at_its_last_pixel() -> None:
    boxes = torch.tensor([[0.0, 0.0, 29.0, 19.0], [4.0, 5.0, 6.0, 7.0]])
    stages = [RandomCrop((9, 12), inclusive_pixels=True), LEFT_TO_RIGHT]
    for seed in range(5):
        with seeded(seed):
            moved = _moved(boxes, (20, 30), stages)["boxes"]
        assert moved[0].tolist() == [0, 0, 11, 8]
        assert (moved >= 0).all()


def test_objects_of_one_pixel_are_left_out_with_a_warning_that_names_them(
    make_coco: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    annotation = {"image_id": 1, "category_id": 10, "bbox": [2, 3, 1, 6]}
    path = make_coco([(20, 30)], [annotation, {**annotation, "bbox": [2, 3, 1.5, 6]}])
    truth = load_coco(path, path.parent, "pets")
    dataset = DetectionDataset("pets", truth, path.parent, ("cat", "dog"), inclusive_pixels=True)
    dataset.warn_of_what_is_not_trained_on()
    assert dataset[0].target["boxes"].tolist() == [[2, 3, 2.5, 8]]
    assert caplog.messages == [
        "pets: 1 of 2 annotations have a box of at most a pixel's width or height "
        "and are not trained on: 1 (1.png)"
    ]


def test_the_predecessors_files_flip_last_and_modern_ones_first() -> None:
    kinds = {
        conventions: [type(stage) for stage in build_transforms(
            load_config(None, ["CONVENTIONS", conventions]), is_train=True
        )]
        for conventions in ("maskrcnn_benchmark", "modern")
    }  # fmt: skip
    assert kinds["maskrcnn_benchmark"] == [PillowResize, v2.RandomHorizontalFlip]
    assert kinds["modern"][0] is v2.RandomHorizontalFlip


def test_with_test_time_augmentation_nothing_is_resized_for_evaluation() -> None:
    cfg = load_config(None, ["TEST.BBOX_AUG.ENABLED", "True"])
    assert build_transforms(cfg, is_train=False) == []

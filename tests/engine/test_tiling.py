"""Large pictures in tiles: where the tiles are, and that each object is found once."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from detengine.config.load import load_config
from detengine.engine.detection_result import DetectionResult
from detengine.engine.predictor import Predictor
from detengine.engine.tiling import Tiling, Window, make_tiling, merge_tiles
from detengine.structures.prediction import Prediction

SIDES = st.integers(1, 300)


class Squares(nn.Module):
    """Finds each patch of one grey above black: its box, label by its grey, all of it as mask.

    Patches of one grey must not touch. The score is higher for what is larger.
    """

    takes_uint8 = True

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: list[Tensor], targets: object = None) -> list[dict[str, Tensor]]:
        return [self._find(image[0]) for image in images]

    def _find(self, pixels: Tensor) -> dict[str, Tensor]:
        boxes, labels = [], []
        for grey in pixels.unique().tolist():
            for box in _patches(pixels.numpy() == grey) if grey else []:
                boxes.append(box)
                labels.append(1 if grey < 128 else 2)
        found = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        areas = (found[:, 2:] - found[:, :2]).prod(dim=1)
        return {
            "boxes": found,
            "scores": 0.5 + areas / 1e6,
            "labels": torch.tensor(labels, dtype=torch.int64),
            "mask_probs": torch.ones(len(boxes), 28, 28),
        }


def _patches(inside: np.ndarray) -> list[tuple[int, int, int, int]]:
    """The boxes xyxy of rectangles that do not touch."""
    boxes = []
    inside = inside.copy()
    while inside.any():
        top, left = (int(each) for each in np.argwhere(inside)[0])
        row = inside[top, left:]
        right = left + (int(np.argmin(row)) if not row.all() else len(row))
        column = inside[top:, left]
        bottom = top + (int(np.argmin(column)) if not column.all() else len(column))
        inside[top:bottom, left:right] = False
        boxes.append((left, top, right, bottom))
    return boxes


@pytest.fixture
def predictor() -> Predictor:
    """Sees pictures as large as they are: the shorter side of all tiles here is 100 pixels."""
    options = ["CONVENTIONS", "modern", "INPUT.MIN_SIZE_TEST", "100", "INPUT.MAX_SIZE_TEST", "100"]
    return Predictor(load_config(None, options), Squares(), class_names=["dark", "bright"])


def picture_of(size: tuple[int, int], *boxes: tuple[int, int, int, int, int]) -> np.ndarray:
    """uint8[height, width, 3], black, with boxes (x1, y1, x2, y2, grey)."""
    picture = np.zeros((*size, 3), np.uint8)
    for x1, y1, x2, y2, grey in boxes:
        picture[y1:y2, x1:x2] = grey
    return picture


# Where the tiles are


@settings(max_examples=100, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.floats(0, 0.9))
def test_tiles_cover_the_picture_and_overlap_as_asked_for(
    height: int, width: int, tile_height: int, tile_width: int, overlap: float
) -> None:
    tiling = Tiling((tile_height, tile_width), overlap)
    covered = np.zeros((height, width), bool)
    windows = tiling.windows((height, width))
    for top, left, bottom, right in windows:
        covered[top:bottom, left:right] = True
        assert (bottom - top, right - left) == (min(height, tile_height), min(width, tile_width))
        assert 0 <= top < bottom <= height
        assert 0 <= left < right <= width
    assert covered.all()
    lefts = sorted({window.left for window in windows})
    for one, other in pairwise(lefts):
        assert one < other
        assert one + tile_width - other >= min(round(overlap * tile_width), tile_width - 1)


def test_a_picture_no_larger_than_a_tile_is_one_window() -> None:
    assert Tiling((100, 120)).windows((100, 120)) == [Window(0, 0, 100, 120)]
    assert Tiling((100, 120)).windows((1, 1)) == [Window(0, 0, 1, 1)]


@pytest.mark.parametrize(
    ("tile", "overlap", "said"),
    [
        (0, 0.2, r"tile is \(0, 0\); expected \(height, width\)"),
        ((100, -1), 0.2, r"tile is \(100, -1\)"),
        ((1, 2, 3), 0.2, r"tile is \(1, 2, 3\)"),
        ((99.5, 100), 0.2, r"in whole pixels"),
        (100, 1.0, r"tile_overlap is 1\.0; expected a fraction"),
        (100, -0.1, r"tile_overlap is -0\.1"),
    ],
)
def test_an_impossible_tile_is_refused(tile: object, overlap: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_tiling(tile, overlap)  # type: ignore[arg-type]


# What is found


def test_a_picture_smaller_than_a_tile_is_seen_as_without_tiles(predictor: Predictor) -> None:
    picture = picture_of((60, 80), (10, 10, 30, 30, 50), (40, 5, 70, 50, 200))
    whole, tiled = predictor(picture), predictor(picture, tile=100)
    assert torch.equal(whole.boxes_xyxy, tiled.boxes_xyxy)
    assert torch.equal(whole.scores, tiled.scores)
    assert whole.rles == tiled.rles


def test_in_a_picture_of_pictures_the_same_is_found_as_in_these(predictor: Predictor) -> None:
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(6):
        x, y = rng.integers(5, 40, 2)
        w, h = rng.integers(10, 40, 2)
        pictures.append(picture_of((100, 100), (x, y, x + w, y + h, int(rng.integers(1, 256)))))
    mosaic = np.concatenate([np.concatenate(pictures[row : row + 3], 1) for row in (0, 3)])
    expected = []
    for number, result in enumerate(predictor(pictures)):
        shift = torch.tensor([100 * (number % 3), 100 * (number // 3)] * 2)
        expected += _named_boxes(result.boxes_xyxy + shift, result.class_names)
    for overlap in (0.0, 0.3):
        found = predictor(mosaic, tile=100, tile_overlap=overlap)
        assert sorted(_named_boxes(found.boxes_xyxy, found.class_names)) == sorted(expected)


def _named_boxes(boxes_xyxy: Tensor, names: Sequence[str]) -> list[tuple[str, list[int]]]:
    return list(zip(names, boxes_xyxy.round().int().tolist(), strict=True))


def assert_mask_fills(found: DetectionResult, box: tuple[int, int, int, int]) -> None:
    """All of the box, and at most a pixel more on each side, as pasting has it."""
    x1, y1, x2, y2 = box
    assert found.masks is not None
    [mask] = found.masks
    assert mask[y1:y2, x1:x2].all()
    mask[y1 - 1 : y2 + 1, x1 - 1 : x2 + 1] = False
    assert not mask.any()


@pytest.mark.parametrize("place", range(60, 100, 3))
def test_an_object_across_a_border_is_found_once_and_whole(
    predictor: Predictor, place: int
) -> None:
    picture = picture_of((150, 180), (place, place - 20, place + 30, place + 10, 200))
    found = predictor(picture, tile=100, tile_overlap=0.4)
    assert found.boxes_xyxy.tolist() == [[place, place - 20, place + 30, place + 10]]
    assert_mask_fills(found, (place, place - 20, place + 30, place + 10))


def test_an_object_larger_than_the_overlap_is_put_together(predictor: Predictor) -> None:
    picture = picture_of((100, 420), (30, 20, 390, 60, 200))
    found = predictor(picture, tile=100, tile_overlap=0.25)
    assert found.boxes_xyxy.tolist() == [[30, 20, 390, 60]]
    assert_mask_fills(found, (30, 20, 390, 60))


def test_classes_and_neighbours_are_not_mixed_up(predictor: Predictor) -> None:
    boxes = [(70, 10, 95, 40, 60), (70, 45, 95, 75, 200), (98, 10, 120, 40, 60)]
    found = predictor(picture_of((100, 150), *boxes), tile=100, tile_overlap=0.3)
    assert sorted(map(tuple, found.boxes_xyxy.int().tolist())) == sorted(b[:4] for b in boxes)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_objects_that_fit_into_the_overlap_are_each_found_once(seed: int) -> None:
    options = ["CONVENTIONS", "modern", "INPUT.MIN_SIZE_TEST", "100", "INPUT.MAX_SIZE_TEST", "100"]
    predictor = Predictor(load_config(None, options), Squares())
    rng = np.random.default_rng(seed)
    boxes = []
    for y in range(4, 220, 40):
        for x in range(4, 260, 40):
            if rng.random() < 0.6:
                w, h = rng.integers(8, 34, 2)
                boxes.append((x, y, x + int(w), y + int(h), int(rng.choice([60, 200]))))
    found = predictor(picture_of((250, 290), *boxes), tile=100, tile_overlap=0.4)
    assert sorted(map(tuple, found.boxes_xyxy.int().tolist())) == sorted(b[:4] for b in boxes)


def test_several_pictures_in_batches_of_tiles_are_kept_apart(predictor: Predictor) -> None:
    pictures = [picture_of((100, 60 + 50 * n), (10, 10, 20 + n, 30, 200)) for n in range(4)]
    for size in (1, 3, 100):
        found = predictor(pictures, tile=100, batch_size=size)
        assert [each.boxes_xyxy.tolist() for each in found] == [
            [[10, 10, 20 + n, 30]] for n in range(4)
        ]


# Fragments


def _prediction(boxes: list[list[float]], scores: list[float], **more: Tensor) -> Prediction:
    labels = torch.ones(len(boxes), dtype=torch.int64)
    found = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Prediction(found, torch.tensor(scores), (100, 180), labels, **more)


WINDOWS = [Window(0, 0, 100, 100), Window(0, 80, 100, 180)]


def test_a_weak_whole_detection_does_not_take_a_sure_fragments_place() -> None:
    fragment = _prediction([[60, 10, 100, 50]], [0.9])
    whole = _prediction([[85, 10, 130, 50], [84, 10, 101, 50]], [0.3, 0.3])
    found = merge_tiles([fragment, whole], WINDOWS)
    assert float(found.scores[0]) == pytest.approx(0.9)


def test_of_two_fragments_each_keypoint_is_the_surer_one() -> None:
    def points(x: float, scores: list[float]) -> dict[str, Tensor]:
        keypoints = torch.tensor([[[x, 1.0, 1.0], [x, 2.0, 1.0]]])
        return {"keypoints": keypoints, "keypoint_scores": torch.tensor([scores])}

    one = _prediction([[20, 10, 100, 50]], [0.9], **points(30, [4.0, 1.0]))
    other = _prediction([[80, 10, 170, 50]], [0.8], **points(150, [2.0, 3.0]))
    found = merge_tiles([one, other], WINDOWS)
    assert found.boxes_xyxy.tolist() == [[20, 10, 170, 50]]
    assert found.keypoints is not None
    assert found.keypoints[0, :, 0].tolist() == [30, 150]
    assert found.keypoint_scores is not None
    assert found.keypoint_scores.tolist() == [[4.0, 3.0]]


def test_proposals_and_empty_tiles_are_merged_too() -> None:
    nothing = replace(_prediction([], []), labels=None)
    assert len(merge_tiles([nothing, nothing], WINDOWS)) == 0
    one = replace(_prediction([[20, 10, 40, 50]], [0.9]), labels=None)
    assert merge_tiles([nothing, one], WINDOWS).boxes_xyxy.tolist() == [[20, 10, 40, 50]]

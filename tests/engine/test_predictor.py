"""A model on pictures: whose pixels, which mode, and what is not a picture."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from detengine.config.load import load_config
from detengine.engine.predictor import Predictor


@pytest.fixture
def predictor(detector: nn.Module) -> Predictor:
    cfg = load_config(
        None, ["CONVENTIONS", "modern", "INPUT.MIN_SIZE_TEST", "20", "INPUT.MAX_SIZE_TEST", "40"]
    )
    return Predictor(cfg, detector, class_names=["thing"])


def test_boxes_are_in_each_pictures_own_pixels(predictor: Predictor) -> None:
    pictures = [np.zeros((10, 20, 3), np.uint8), np.zeros((50, 30, 3), np.uint8)]
    first, second = predictor(pictures)
    assert first.boxes_xyxy.tolist() == [[0, 0, 20, 10]]
    assert first.size == (10, 20)
    assert second.boxes_xyxy.round().tolist() == [[0, 0, 30, 50]]
    assert second.size == (50, 30)


def test_the_models_mode_is_left_as_it_was(predictor: Predictor, detector: nn.Module) -> None:
    detector.train()
    predictor([np.zeros((4, 4, 3), np.uint8)])
    assert detector.training
    assert detector.dropout.training


def test_a_read_only_or_strided_picture_is_taken_as_it_is(predictor: Predictor) -> None:
    picture = np.zeros((10, 40, 3), np.uint8)[:, ::2]
    picture.setflags(write=False)
    assert predictor([picture])[0].size == (10, 20)


def test_no_pictures_give_no_predictions(predictor: Predictor) -> None:
    assert predictor([]) == []


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((3, 4, 5), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_not_a_picture_is_named_with_its_type_and_shape(
    predictor: Predictor, picture: np.ndarray
) -> None:
    with pytest.raises(ValueError, match=r"picture 1 is (uint8|float32)\[.*expected"):
        predictor([np.zeros((4, 4, 3), np.uint8), picture])


def test_one_picture_gives_one_result_and_a_list_a_list(predictor: Predictor) -> None:
    picture = np.zeros((10, 20, 3), np.uint8)
    one = predictor(picture)
    assert one.class_names == ("thing",)
    [same] = predictor([picture])
    (tupled,) = predictor((picture,))
    for each in (same, tupled):
        assert torch.equal(each.boxes_xyxy, one.boxes_xyxy)


def test_kinds_of_pictures_may_be_mixed_in_a_list(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (20, 10)).save(path)
    pictures = [str(path), Image.open(path), torch.zeros(3, 10, 20, dtype=torch.uint8)]
    assert [each.size for each in predictor(pictures)] == [(10, 20)] * 3


def test_pictures_come_in_batches_and_no_sooner_than_they_are_asked_for(
    detector: nn.Module,
) -> None:
    seen: list[int] = []
    detector.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    cfg = load_config(None, ["CONVENTIONS", "modern"])
    pictures = [np.zeros((4, 4, 3), np.uint8)] * 5
    Predictor(cfg, detector)(pictures)
    Predictor(cfg, detector, batch_size=2)(pictures)
    Predictor(cfg, detector, batch_size=2)(pictures, batch_size=3)
    assert seen == [5, 2, 2, 1, 3, 2]
    asked_for: list[int] = []
    endless = (asked_for.append(n) or pictures[0] for n in itertools.count())
    stream = Predictor(cfg, detector).stream(endless, batch_size=2)
    assert [len(next(stream)) for _ in range(3)] == [1, 1, 1]
    assert asked_for == [0, 1, 2, 3]


def test_an_empty_batch_is_refused(predictor: Predictor, detector: nn.Module) -> None:
    with pytest.raises(ValueError, match="batch_size is 0; expected 1 or more"):
        predictor([], batch_size=0)
    with pytest.raises(ValueError, match="batch_size is -1"):
        Predictor(load_config(None), detector, batch_size=-1)


def test_inclusive_boxes_are_the_models_own_unless_continuous_ones_are_asked_for(
    detector: nn.Module,
) -> None:
    cfg = load_config(None, ["INPUT.MIN_SIZE_TEST", "10", "INPUT.MAX_SIZE_TEST", "20"])
    picture = np.zeros((10, 20, 3), np.uint8)
    own = Predictor(cfg, detector)(picture)
    opened = Predictor(cfg, detector, continuous_boxes=True)(picture)
    assert own.boxes_xyxy.tolist() == [[0, 0, 20, 10]]
    assert opened.boxes_xyxy.tolist() == [[0, 0, 21, 11]]
    assert own.to_coco(1) == opened.to_coco(1)

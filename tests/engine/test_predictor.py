"""A model on pictures: whose pixels, which mode, and what is not a picture."""

import numpy as np
import pytest
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

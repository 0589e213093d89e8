import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detengine.data.repeats import repeat_factors

annotations = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), max_size=40)
"""The image and the label of each."""


def _factors(pairs: list[tuple[int, int]], threshold: float, images: int = 10) -> list[float]:
    image_of, labels = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).unbind(1)
    return repeat_factors(image_of, labels, images, threshold).tolist()


@given(annotations, st.floats(0.001, 1))
def test_an_image_has_the_factor_of_its_rarest_class(
    pairs: list[tuple[int, int]], threshold: float
) -> None:
    images_of = {label: {image for image, each in pairs if each == label} for _, label in pairs}
    expected = [
        max(
            [1.0]
            + [math.sqrt(threshold / (len(of) / 10)) for of in images_of.values() if image in of]
        )
        for image in range(10)
    ]
    assert _factors(pairs, threshold) == pytest.approx(expected, rel=1e-12)


def test_a_class_below_the_threshold_repeats_its_images_by_the_square_root() -> None:
    pairs = [(image, 1) for image in range(10)] + [(3, 2), (3, 2), (4, 3), (5, 3), (6, 3), (7, 3)]
    factors = _factors(pairs, 0.4)
    assert factors == pytest.approx([1, 1, 1, 2, 1, 1, 1, 1, 1, 1])


def test_images_without_objects_and_frequent_classes_come_once() -> None:
    assert _factors([], 1.0, images=3) == [1, 1, 1]
    assert _factors([(0, 1), (1, 1)], 0.001, images=3) == [1, 1, 1]

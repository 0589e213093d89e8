import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from detengine.structures.rle_union import union_of


@st.composite
def _masks(draw):
    """Some masks of one size, of random pixels or of none."""
    height, width = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shares = draw(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=1, max_size=4))
    return [np.asfortranarray(rng.random((height, width)) < share, np.uint8) for share in shares]


def _rle(mask):
    return coco_mask.encode(mask)


@settings(max_examples=60, deadline=None)
@given(_masks())
def test_the_union_is_that_of_the_pixels_to_the_byte(masks):
    union = union_of([_rle(mask) for mask in masks])
    assert union == _rle(np.asfortranarray(np.logical_or.reduce(masks), np.uint8))


def test_masks_of_several_sizes_have_no_union():
    masks = [np.zeros(size, np.uint8, order="F") for size in ((2, 3), (3, 2))]
    with pytest.raises(ValueError, match=r"one size \(height, width\), but got \[\(2, 3\), \(3, 2"):
        union_of([_rle(mask) for mask in masks])
    with pytest.raises(ValueError, match="of one size"):
        union_of([])

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from detengine.report.mask_columns import columns_of


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_the_columns_are_those_of_the_dense_mask_whichever_way_it_is_given(share):
    rng = np.random.default_rng(0)
    for _ in range(20):
        size = tuple(rng.integers(1, 30, 2))
        dense = rng.random(size) < share
        rle = coco_mask.encode(np.asfortranarray(dense, np.uint8))
        for mask in (rle, torch.from_numpy(dense)):
            inside, first = columns_of(mask)
            again = np.zeros_like(dense)
            again[:, first : first + inside.shape[1]] = inside
            assert np.array_equal(again, dense)


def test_of_a_small_mask_in_a_huge_image_only_its_own_columns_are_there():
    dense = np.zeros((50, 1000), np.uint8, order="F")
    dense[10:20, 400:410] = 1
    inside, first = columns_of(coco_mask.encode(dense))
    assert (inside.shape, first) == ((50, 10), 400)


def test_an_annotation_without_a_mask_has_no_columns():
    assert columns_of({"size": [50, 60], "counts": b""}).inside.shape == (50, 0)

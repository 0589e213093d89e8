"""Two images and three objects, with masks and keypoints: what predictions are scored on."""

import torch

from detengine.evaluation.options import ScoringOptions
from detengine.structures.categories import Categories
from detengine.structures.ground_truth import GroundTruth, PackedBytes

CLASSES = ("cat", "dog")
OPTIONS = ScoringOptions(keypoint_sigmas=(0.1, 0.1))
_MASK = b"d0n0V2"
"""20 pixels outside, 30 inside, 70 outside: an image of 12 x 10."""


def small_truth() -> GroundTruth:
    return GroundTruth(
        categories=Categories(CLASSES, (20, 4)),
        image_ids=torch.tensor([3, 8]),
        image_sizes=torch.tensor([[12, 10], [12, 10]]),
        file_names=PackedBytes.from_list([b"a/1.png", b"2.png"]),
        offsets=torch.tensor([0, 2, 3]),
        annotation_ids=torch.tensor([5, 6, 7]),
        category_ids=torch.tensor([20, 4, 20]),
        boxes_xywh=torch.tensor([[1, 2, 4, 4], [0, 0, 9, 9], [2, 2, 3, 3]], dtype=torch.float64),
        areas=torch.tensor([16, 81, 9], dtype=torch.float64),
        is_crowd=torch.tensor([False, False, True]),
        is_difficult=torch.tensor([False, False, False]),
        masks=PackedBytes.from_list([_MASK] * 3),
        keypoints=torch.ones(3, 2, 3, dtype=torch.float64),
        num_keypoints=torch.tensor([2, 2, 2]),
    )

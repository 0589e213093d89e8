"""What both families do with a whole batch of images of one size, in shapes that a graph can hold.

Where the models go image by image and ask for numbers, here all images go together: what is not
wanted keeps its place, with a score of UNWANTED, until `choose` leaves it out.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from detengine.modeling.boxes import BoxArithmetic, InclusiveBoxes, just_below, opened_by_a_pixel
from detengine.modeling.export_operators import survivors_of_groups
from detengine.modeling.preprocess import Preprocess

UNWANTED = -1.0
"""Below every score: they are in [0, 1]."""


class Chosen(NamedTuple):
    """D of a batch's places, image by image and in each the best first.

    image, place: int64[D]; scores: float32[D].
    """

    image: Tensor
    place: Tensor
    scores: Tensor


def preprocessed(preprocess: Preprocess, images: Tensor) -> Tensor:
    """What `preprocess` makes of images that are one tensor: float32[N, 3, H', W'].

    images: uint8[N, 3, H, W] in RGB.
    """
    pixels = (images.flip(1) if preprocess.to_bgr255 else images).float()
    if not preprocess.to_bgr255:
        pixels = pixels / 255
    normalized = (pixels - preprocess.mean) / preprocess.std
    multiple = preprocess.size_divisible
    below, right = (
        (side + multiple - 1) // multiple * multiple - side for side in images.shape[2:]
    )
    return F.pad(normalized, (0, right, 0, below))


def survivors(
    arithmetic: BoxArithmetic,
    boxes_xyxy: Tensor,
    scores: Tensor,
    *,
    iou_threshold: float,
    score_threshold: float = UNWANTED / 2,
) -> Tensor:
    """bool[G, C, K] of float32[G, K, 4] and float32[G, C, K]: see `survivors_of_groups`.

    By the model's arithmetic: NMS of inclusive boxes suppresses at the threshold too, and one at 0
    not at all.
    """
    if isinstance(arithmetic, InclusiveBoxes):
        if iou_threshold <= 0:
            return scores > score_threshold
        boxes_xyxy, iou_threshold = opened_by_a_pixel(boxes_xyxy), just_below(iou_threshold)
    stays: Tensor = survivors_of_groups(boxes_xyxy, scores, iou_threshold, score_threshold)
    return stays


def choose(scores: Tensor, limit: int, *, keep_ties: bool) -> Chosen:
    """Of each image the `limit` best that are wanted: `detections.keep_best` for a batch.

    scores: float32[N, M]. limit: 0 or less for all.
    """
    total = scores.shape[1]
    count = total if limit <= 0 else torch.sym_min(limit, total)
    best, place = scores.topk(total if keep_ties else count, dim=1)
    is_chosen = best > UNWANTED / 2
    if keep_ties:
        is_chosen = is_chosen & (best >= best[:, :count].amin(dim=1, keepdim=True))
    image, rank = torch.where(is_chosen)
    return Chosen(image, place[image, rank], best[image, rank])

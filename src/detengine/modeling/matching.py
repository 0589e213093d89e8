"""Which ground-truth box each candidate stands for, and which candidates are trained on."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection._utils import Matcher

from detengine.modeling.boxes import BoxArithmetic
from detengine.modeling.poolers import to_rois
from detengine.structures.target import Target

BACKGROUND = Matcher.BELOW_LOW_THRESHOLD
"""What `match_boxes` says of a box below the low threshold; between the two it says -2."""


class AnchorSampling(NamedTuple):
    """Which anchors are trained on: at most so many of an image, this fraction positive.

    straddle: how far they may reach over the image's edge, in pixels; negative for any.
    """

    matcher: Matcher
    samples_per_image: int
    positive_fraction: float
    straddle: float


def match_boxes(
    boxes_xyxy: Tensor, truth_xyxy: Tensor, matcher: Matcher, arithmetic: BoxArithmetic
) -> Tensor:
    """The index of each box's ground-truth box, or a negative number. boxes: float[R, 4], R > 0.

    Returns int64[R]: 0 or more for a match, BACKGROUND, or -2 for neither, which is not trained on.
    An image without ground truth is all background.
    """
    if len(truth_xyxy) == 0:
        return torch.full_like(boxes_xyxy[:, 0], BACKGROUND, dtype=torch.int64)
    return match_overlaps(arithmetic.iou(truth_xyxy, boxes_xyxy), matcher)


def match_overlaps(iou: Tensor, matcher: Matcher, is_real: Tensor | None = None) -> Tensor:
    """What torchvision's matcher says, int64[..., R] of float[..., T, R], without asking where.

    is_real: bool[..., T], which of the T are objects at all; None: all of them. T > 0.
    """
    if is_real is not None:
        iou = iou.where(is_real[..., None], -1)
    best, index = iou.max(dim=-2)
    low, high = matcher.low_threshold, matcher.high_threshold
    matched = index.masked_fill(best < low, BACKGROUND)
    matched = matched.masked_fill_((best >= low) & (best < high), Matcher.BETWEEN_THRESHOLDS)
    if matcher.allow_low_quality_matches:
        is_its_best = iou == iou.amax(dim=-1, keepdim=True)
        if is_real is not None:
            is_its_best &= is_real[..., None]
        matched = torch.where(is_its_best.any(dim=-2), index, matched)
    return matched


def sample_balanced(matched: Tensor, count: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Draw at most `count` candidates, at most this fraction of them positive.

    matched: int64[R] of `match_boxes`. Returns the indices of positives and of negatives: int64[P],
    int64[count - P] or fewer. Draws from the device's default generator as torchvision's
    BalancedPositiveNegativeSampler does, so that a seed gives the same samples.
    """
    positive = torch.where(matched >= 0)[0]
    negative = torch.where(matched == BACKGROUND)[0]
    num_positive = min(len(positive), int(count * positive_fraction))
    num_negative = min(len(negative), count - num_positive)
    chosen_positive = torch.randperm(len(positive), device=matched.device)[:num_positive]
    chosen_negative = torch.randperm(len(negative), device=matched.device)[:num_negative]
    return positive[chosen_positive], negative[chosen_negative]


class RoISamples(NamedTuple):
    """The RoIs of one training step: P positives, image by image, then the negatives.

    - rois: float[R, 5], the image's index and xyxy; labels: int64[R], 0 for the negatives.
    - matched_boxes: float[P, 4], the ground-truth box of each positive.
    - matched_index: of each image int64[P_i], the ground-truth index of its positives.
    - is_positive: bool[P] where P is a number of places, not all of which are taken, and then
      used, int64[], how many of the RoIs are samples at all; the other labels are -100. Of a place
      that is not taken all values are there, and mean nothing. None: all are taken.
    """

    rois: Tensor
    labels: Tensor
    matched_boxes: Tensor
    matched_index: list[Tensor]
    is_positive: Tensor | None = None
    used: Tensor | None = None

    @property
    def positive_rois(self) -> Tensor:
        """float[P, 5]."""
        return self.rois[: len(self.matched_boxes)]

    def positives_of_images(self) -> tuple[Tensor, ...]:
        """The positives' boxes of each image: float[P_i, 4], xyxy."""
        counts = [len(index) for index in self.matched_index]
        return self.positive_rois[:, 1:].split_with_sizes(counts)

    def at_least_one(self) -> int | Tensor:
        """How many samples there are, or 1."""
        return max(len(self.rois), 1) if self.used is None else self.used.clamp(min=1)

    def positives(self) -> int | Tensor:
        """How many of the samples are positive."""
        return len(self.matched_boxes) if self.is_positive is None else self.is_positive.sum()

    def zero_where_empty(self, values: Tensor) -> Tensor:
        """float[P, ...], of the positives, without what stands in empty places."""
        if self.is_positive is None:
            return values
        shape = (-1, *[1] * (values.dim() - 1))
        return values.where(self.is_positive.view(shape), 0)


@torch.no_grad()
def sample_rois(
    proposals: Sequence[Tensor],
    targets: Sequence[Target],
    matcher: Matcher,
    arithmetic: BoxArithmetic,
    *,
    samples_per_image: int,
    positive_fraction: float,
) -> RoISamples:
    """Match each image's proposals, its ground-truth boxes among them, and draw."""
    positives, negatives, labels, matched_boxes, matched_index = [], [], [], [], []
    for proposed, target in zip(proposals, targets, strict=True):
        truth = target["boxes"]
        candidates = torch.cat([proposed, truth])
        matched = match_boxes(candidates, truth, matcher, arithmetic)
        positive, negative = sample_balanced(matched, samples_per_image, positive_fraction)
        positives.append(candidates[positive])
        negatives.append(candidates[negative])
        matched_index.append(matched[positive])
        labels.append(target["labels"][matched[positive]])
        matched_boxes.append(truth[matched[positive]])
    rois = torch.cat([to_rois(positives), to_rois(negatives)])
    labels_of_positives = torch.cat(labels)
    return RoISamples(
        rois,
        F.pad(labels_of_positives, (0, len(rois) - len(labels_of_positives))),
        torch.cat(matched_boxes),
        matched_index,
    )

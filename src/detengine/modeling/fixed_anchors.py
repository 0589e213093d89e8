"""What the proposals' network learns from, drawn for all images at once in fixed shapes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection._utils import Matcher

from detengine.modeling.anchors import lies_inside
from detengine.modeling.boxes import BoxArithmetic, Weights
from detengine.modeling.fixed_sampling import Draw, draw_balanced, match_all, pad_truth, rows
from detengine.modeling.matching import AnchorSampling
from detengine.structures.target import Target


class DrawnAnchors(NamedTuple):
    """S places of each image's anchors, and float[N, S, 4], the deltas to the positives' objects,
    0 for the others."""

    drawn: Draw
    truth_deltas: Tensor

    def losses(self, logits: Tensor, deltas: Tensor, smooth_l1_beta: float) -> dict[str, Tensor]:
        """logits: float[N, A]; deltas: float[N, A, 4]."""
        anchor, is_positive, is_used = self.drawn
        loss_objectness = F.binary_cross_entropy_with_logits(
            logits.gather(1, anchor), is_positive.to(logits.dtype), reduction="none"
        )
        loss_box_reg = F.smooth_l1_loss(
            rows(deltas, anchor), self.truth_deltas, beta=smooth_l1_beta, reduction="none"
        )
        count = is_used.sum().clamp(min=1)
        return {
            "loss_objectness": loss_objectness.where(is_used, 0).sum() / count,
            "loss_rpn_box_reg": loss_box_reg.where(is_positive[:, :, None], 0).sum() / count,
        }


@torch.no_grad()
def draw_anchors(
    anchors: Tensor,
    image_sizes: Sequence[tuple[int, int]],
    targets: Sequence[Target],
    sampling: AnchorSampling,
    arithmetic: BoxArithmetic,
    weights: Weights,
) -> DrawnAnchors:
    """From float[A, 4], the anchors of every image. image_sizes: (height, width)."""
    truth = pad_truth(targets, anchors.device)
    matched = match_all(anchors, truth, sampling.matcher, arithmetic)
    if sampling.straddle >= 0:
        inside = [lies_inside(anchors, size, sampling.straddle) for size in image_sizes]
        matched = matched.where(torch.stack(inside), Matcher.BETWEEN_THRESHOLDS)
    drawn = draw_balanced(matched, sampling.samples_per_image, sampling.positive_fraction)
    objects = rows(truth.boxes, rows(matched, drawn.candidate).clamp(min=0))
    starts = anchors[drawn.candidate]
    deltas = arithmetic.encode(objects.flatten(0, 1), starts.flatten(0, 1), weights)
    return DrawnAnchors(drawn, deltas.view_as(starts).where(drawn.is_positive[:, :, None], 0))

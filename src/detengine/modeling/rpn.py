"""Region proposals: score and shift anchors, keep the best, learn from the ground truth."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator

from detengine.modeling.boxes import BoxArithmetic
from detengine.modeling.matching import match_boxes, sample_balanced
from detengine.structures.target import Target

BOX_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
"""Of the proposals' deltas; those of the detections can be chosen."""


class ProposalLimits(NamedTuple):
    """How many proposals survive: of each level before NMS, of each image after it."""

    pre_nms: int
    post_nms: int


class RegionProposalNetwork(nn.Module):
    """Propose boxes that may hold an object, whatever its class (Faster R-CNN, arXiv 1506.01497).

    head: features -> (objectness logits [N, A, H, W], deltas [N, 4A, H, W]) of each level.
    train_limits, test_limits: the number of proposals in the two modes. min_size: in pixels.
    """

    def __init__(
        self,
        anchor_generator: AnchorGenerator,
        head: nn.Module,
        *,
        arithmetic: BoxArithmetic,
        matcher: Matcher,
        samples_per_image: int,
        positive_fraction: float,
        train_limits: ProposalLimits,
        test_limits: ProposalLimits,
        nms_threshold: float,
        min_size: float,
        smooth_l1_beta: float,
    ) -> None:
        super().__init__()
        self.anchor_generator = anchor_generator
        self.head = head
        self.arithmetic = arithmetic
        self.matcher = matcher
        self.samples_per_image = samples_per_image
        self.positive_fraction = positive_fraction
        self.train_limits = train_limits
        self.test_limits = test_limits
        self.nms_threshold = nms_threshold
        self.min_size = min_size
        self.smooth_l1_beta = smooth_l1_beta

    def forward(
        self,
        features: Sequence[Tensor],
        padded_size: tuple[int, int],
        image_sizes: Sequence[tuple[int, int]],
        targets: Sequence[Target] | None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Each image's proposals, float[P, 4], best first; with targets, the two losses.

        padded_size: (height, width) of the batch; image_sizes: of the images in it.
        """
        logit_maps, delta_maps = self.head(features)
        logits = [_one_row_per_anchor(level, 1)[:, :, 0].float() for level in logit_maps]
        deltas = [_one_row_per_anchor(level, 4).float() for level in delta_maps]
        anchors = self._anchors(features, padded_size)
        proposals = self._propose(logits, deltas, anchors, image_sizes)
        if targets is None:
            return proposals, {}
        return proposals, self._losses(
            torch.cat(logits, dim=1), torch.cat(deltas, dim=1), torch.cat(anchors), targets
        )

    def _anchors(self, features: Sequence[Tensor], padded_size: tuple[int, int]) -> list[Tensor]:
        """float32[H * W * A, 4] of each level, in torchvision's order.

        A level's step is the batch's size over the level's, rounded down, as torchvision trained
        its weights: on the pooled level of stride 64 it can be a few pixels less than 64.
        """
        grids = [(level.shape[2], level.shape[3]) for level in features]
        steps = [(padded_size[0] // h, padded_size[1] // w) for h, w in grids]
        self.anchor_generator.set_cell_anchors(torch.float32, features[0].device)
        anchors: list[Tensor] = self.anchor_generator.grid_anchors(grids, steps)
        return anchors

    @torch.no_grad()
    def _propose(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Tensor]:
        limits = self.train_limits if self.training else self.test_limits
        best = [level.topk(min(limits.pre_nms, level.shape[1]), dim=1) for level in logits]
        scores = torch.cat([values for values, _ in best], dim=1).sigmoid()
        boxes = torch.cat(
            [
                self._decode(*level)
                for level in zip(deltas, anchors, (i for _, i in best), strict=True)
            ],
            dim=1,
        )
        level_of_box = torch.cat(
            [torch.full_like(index[0], level) for level, (_, index) in enumerate(best)]
        )
        proposals = []
        for image_boxes, image_scores, size in zip(boxes, scores, image_sizes, strict=True):
            clipped = self.arithmetic.clip(image_boxes, size)
            is_large = (self.arithmetic.sides(clipped) >= self.min_size).all(dim=1)
            large = torch.where(is_large)[0]
            clipped = clipped[large]
            kept = self.arithmetic.nms(
                clipped, image_scores[large], level_of_box[large], self.nms_threshold
            )
            proposals.append(clipped[kept[: limits.post_nms]])
        return proposals

    def _decode(self, deltas: Tensor, anchors: Tensor, index: Tensor) -> Tensor:
        """float[N, K, 4]: the boxes of the chosen anchors of one level. index: int64[N, K]."""
        chosen = deltas.gather(1, index[:, :, None].expand(-1, -1, 4))
        boxes = self.arithmetic.decode(
            chosen.flatten(0, 1), anchors[index].flatten(0, 1), BOX_WEIGHTS
        )
        return boxes.view_as(chosen)

    def _losses(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """logits: float[N, A]; deltas: float[N, A, 4]; anchors: float[A, 4], of every image."""
        positives, negatives, positive_anchors, matched_boxes = [], [], [], []
        for image, target in enumerate(targets):
            matched = match_boxes(anchors, target["boxes"], self.matcher, self.arithmetic)
            positive, negative = sample_balanced(
                matched, self.samples_per_image, self.positive_fraction
            )
            positives.append(positive + image * len(anchors))
            negatives.append(negative + image * len(anchors))
            positive_anchors.append(anchors[positive])
            matched_boxes.append(target["boxes"][matched[positive]])
        positive = torch.cat(positives)
        sampled = torch.cat([positive, *negatives])
        is_object = torch.zeros_like(sampled, dtype=logits.dtype)
        is_object[: len(positive)] = 1
        loss_objectness = F.binary_cross_entropy_with_logits(
            logits.flatten()[sampled], is_object, reduction="sum"
        )
        loss_box_reg = F.smooth_l1_loss(
            deltas.flatten(0, 1)[positive],
            self.arithmetic.encode(
                torch.cat(matched_boxes), torch.cat(positive_anchors), BOX_WEIGHTS
            ),
            beta=self.smooth_l1_beta,
            reduction="sum",
        )
        count = max(len(sampled), 1)
        return {
            "loss_objectness": loss_objectness / count,
            "loss_rpn_box_reg": loss_box_reg / count,
        }


def _one_row_per_anchor(level: Tensor, values: int) -> Tensor:
    """From [N, A * values, H, W] to [N, H * W * A, values]."""
    images, _, height, width = level.shape
    rows = level.view(images, -1, values, height, width).permute(0, 3, 4, 1, 2)
    return rows.reshape(images, -1, values)

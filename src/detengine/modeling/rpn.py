"""Region proposals: score and shift anchors, keep the best, learn from the ground truth."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import Matcher

from detengine.modeling.anchors import AnchorGenerator, AnchorStyle, lies_inside
from detengine.modeling.boxes import BoxArithmetic
from detengine.modeling.fixed_anchors import draw_anchors
from detengine.modeling.fixed_proposals import FixedProposals, choose_fixed
from detengine.modeling.fixed_sampling import upload
from detengine.modeling.matching import AnchorSampling, match_boxes, sample_balanced
from detengine.structures.target import Target

BOX_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
"""Of the proposals' deltas; those of the detections can be chosen."""


class Proposals(NamedTuple):
    """One image's boxes that may hold an object: float32[P, 4], xyxy, and float32[P] in [0, 1]."""

    boxes: Tensor
    scores: Tensor


class ProposalLimits(NamedTuple):
    """How many proposals survive in one mode, training or evaluation.

    pre_nms, post_nms: of each level, before and after NMS. of_image: of all levels together;
    of_batch: of all levels and images together; None is no such limit.
    """

    pre_nms: int
    post_nms: int
    of_image: int | None
    of_batch: int | None


class RegionProposalNetwork(nn.Module):
    """Propose boxes that may hold an object, whatever its class (Faster R-CNN, arXiv 1506.01497).

    head: features -> (objectness logits [N, A, H, W], deltas [N, 4A, H, W]) of each level.
    min_size: in pixels. proposals_in_training: False where nothing comes after them.
    style: whose order proposals have, which the draw of training samples depends on.
    - torchvision, detectron2: anchors rank by logit; proposals stand best first.
    - detectron: they rank by score, which float32 rounds to 1 from a logit of 17.4 on. Behind NMS
      they stand level by level, and stay so under of_batch; of_image puts the best first.
      With an nms_threshold of 0 there is neither NMS nor post_nms (boxlist_ops.py).
    static_shapes: see `fixed_proposals` and `fixed_sampling`; for continuous boxes, a style other
    than detectron, and no of_batch.
    """

    def __init__(
        self,
        anchor_generator: AnchorGenerator,
        head: nn.Module,
        *,
        arithmetic: BoxArithmetic,
        sampling: AnchorSampling,
        train_limits: ProposalLimits,
        test_limits: ProposalLimits,
        nms_threshold: float,
        min_size: float,
        smooth_l1_beta: float,
        style: AnchorStyle,
        proposals_in_training: bool,
        static_shapes: bool = False,
    ) -> None:
        super().__init__()
        self.anchor_generator = anchor_generator
        self.head = head
        self.arithmetic = arithmetic
        self.sampling = sampling
        self.train_limits = train_limits
        self.test_limits = test_limits
        self.nms_threshold = nms_threshold
        self.min_size = min_size
        self.smooth_l1_beta = smooth_l1_beta
        self.style = style
        self.proposals_in_training = proposals_in_training
        self.static_shapes = static_shapes

    def forward(
        self,
        features: Sequence[Tensor],
        padded_size: tuple[int, int],
        image_sizes: Sequence[tuple[int, int]],
        targets: Sequence[Target] | None,
    ) -> tuple[list[Proposals] | FixedProposals, dict[str, Tensor]]:
        """Each image's proposals, in training none where nothing needs them; with targets, losses.

        padded_size: (height, width) of the batch; image_sizes: of the images in it. In training
        with static_shapes, proposals are FixedProposals.
        """
        logit_maps, delta_maps = self.head(features)
        logits = [one_row_per_anchor(level, 1)[:, :, 0].float() for level in logit_maps]
        deltas = [one_row_per_anchor(level, 4).float() for level in delta_maps]
        anchors = self.anchor_generator(features, padded_size)
        proposals: list[Proposals] | FixedProposals = []
        if self.proposals_in_training or not self.training:
            proposals = self._propose(logits, deltas, anchors, image_sizes)
        if targets is None:
            return proposals, {}
        all_anchors = torch.cat(anchors)
        all_logits, all_deltas = torch.cat(logits, dim=1), torch.cat(deltas, dim=1)
        if self.static_shapes:
            fixed = draw_anchors(
                all_anchors, image_sizes, targets, self.sampling, self.arithmetic, BOX_WEIGHTS
            )
            return proposals, fixed.losses(all_logits, all_deltas, self.smooth_l1_beta)
        chosen = self._choose_anchors(all_anchors, image_sizes, targets)
        return proposals, self._losses(all_logits, all_deltas, *chosen)

    @torch.no_grad()
    def _propose(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Proposals] | FixedProposals:
        limits = self.train_limits if self.training else self.test_limits
        ranked = [level.sigmoid() for level in logits] if self.style == "detectron" else logits
        best = [level.topk(min(limits.pre_nms, level.shape[1]), dim=1) for level in ranked]
        decoded = [
            self.decode(*level) for level in zip(deltas, anchors, (i for _, i in best), strict=True)
        ]
        if self.static_shapes:
            logits_of_best = [values for values, _ in best]
            return self._choose_fixed(decoded, logits_of_best, image_sizes, limits)
        scores = torch.cat([values for values, _ in best], dim=1)
        if self.style != "detectron":
            scores = scores.sigmoid()
        boxes = torch.cat(decoded, dim=1)
        level_of_box = torch.cat(
            [torch.full_like(index[0], level) for level, (_, index) in enumerate(best)]
        )
        proposals = []
        for image_boxes, image_scores, size in zip(boxes, scores, image_sizes, strict=True):
            clipped = self.arithmetic.clip(image_boxes, size)
            kept = self._keep(clipped, image_scores, level_of_box, limits)
            proposals.append(Proposals(clipped[kept], image_scores[kept]))
        if limits.of_batch is None:
            return proposals
        return _best_of_batch(proposals, limits.of_batch)

    def _choose_fixed(
        self,
        decoded: Sequence[Tensor],
        logits: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        limits: ProposalLimits,
    ) -> list[Proposals] | FixedProposals:
        corners = [(width, height, width, height) for height, width in image_sizes]
        far = upload(corners, decoded[0].dtype, decoded[0].device)[:, None]
        chosen = choose_fixed(
            [torch.minimum(boxes.clamp(min=0), far) for boxes in decoded],
            [level.sigmoid() for level in logits],
            min_size=self.min_size,
            nms_threshold=self.nms_threshold,
            of_level=limits.post_nms,
            of_image=limits.of_image,
        )
        if self.training:
            return chosen
        return [Proposals(*image) for image in chosen.of_images()]

    def decode(self, deltas: Tensor, anchors: Tensor, index: Tensor) -> Tensor:
        """float[N, K, 4]: the boxes of the chosen anchors of one level. index: int64[N, K]."""
        chosen = deltas.gather(1, index[:, :, None].expand(-1, -1, 4))
        boxes = self.arithmetic.decode(
            chosen.flatten(0, 1), anchors[index].flatten(0, 1), BOX_WEIGHTS
        )
        return boxes.view_as(chosen)

    @property
    def nms_limits(self) -> bool:
        """Whether post_nms counts: in the predecessor an NMS that is off limits nothing either."""
        return self.nms_threshold > 0 or self.style != "detectron"

    def _keep(
        self, boxes: Tensor, scores: Tensor, level_of_box: Tensor, limits: ProposalLimits
    ) -> Tensor:
        """int64[P]: which of one image's float[K, 4] are large enough, survive NMS, and stay."""
        large = torch.where((self.arithmetic.sides(boxes) >= self.min_size).all(dim=1))[0]
        kept = large[
            self.arithmetic.nms(
                boxes[large], scores[large], level_of_box[large], self.nms_threshold
            )
        ]
        if self.style == "detectron":
            kept = kept.sort().values
        if limits.post_nms < limits.pre_nms and self.nms_limits:
            rank = rank_in_level(level_of_box[kept], len(self.anchor_generator.strides))
            kept = kept[rank < limits.post_nms]
        if limits.of_image is None:
            return kept
        if self.style != "detectron":
            return kept[: limits.of_image]
        return kept[scores[kept].topk(min(limits.of_image, len(kept))).indices]

    @torch.no_grad()
    def _choose_anchors(
        self, anchors: Tensor, image_sizes: Sequence[tuple[int, int]], targets: Sequence[Target]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What to train on, from float[A, 4], the anchors of every image.

        Returns int64[P] and int64[M], the positives and the negatives as places in the batch, and
        float[P, 4], the deltas that lead from the positives to their objects.
        """
        positives, negatives, truth_deltas = [], [], []
        for image, (size, target) in enumerate(zip(image_sizes, targets, strict=True)):
            matched = match_boxes(anchors, target["boxes"], self.sampling.matcher, self.arithmetic)
            if self.sampling.straddle >= 0:
                inside = lies_inside(anchors, size, self.sampling.straddle)
                matched = matched.where(inside, Matcher.BETWEEN_THRESHOLDS)
            positive, negative = sample_balanced(
                matched, self.sampling.samples_per_image, self.sampling.positive_fraction
            )
            positives.append(positive + image * len(anchors))
            negatives.append(negative + image * len(anchors))
            objects = target["boxes"][matched[positive]]
            truth_deltas.append(self.arithmetic.encode(objects, anchors[positive], BOX_WEIGHTS))
        return torch.cat(positives), torch.cat(negatives), torch.cat(truth_deltas)

    def _losses(
        self,
        logits: Tensor,
        deltas: Tensor,
        positive: Tensor,
        negative: Tensor,
        truth_deltas: Tensor,
    ) -> dict[str, Tensor]:
        """logits: float[N, A]; deltas: float[N, A, 4]; the rest is of `_choose_anchors`."""
        sampled = torch.cat([positive, negative])
        is_object = torch.zeros_like(sampled, dtype=logits.dtype)
        is_object[: len(positive)] = 1
        loss_objectness = F.binary_cross_entropy_with_logits(
            logits.flatten()[sampled], is_object, reduction="sum"
        )
        loss_box_reg = F.smooth_l1_loss(
            deltas.flatten(0, 1)[positive],
            truth_deltas,
            beta=self.smooth_l1_beta,
            reduction="sum",
        )
        count = max(len(sampled), 1)
        return {
            "loss_objectness": loss_objectness / count,
            "loss_rpn_box_reg": loss_box_reg / count,
        }


def one_row_per_anchor(level: Tensor, values: int) -> Tensor:
    """From [N, A * values, H, W] to [N, H * W * A, values]."""
    images, _, height, width = level.shape
    rows = level.view(images, -1, values, height, width).permute(0, 3, 4, 1, 2)
    return rows.reshape(images, -1, values)


def rank_in_level(level_of_box: Tensor, levels: int) -> Tensor:
    """int64[P]: how many of the same level stand before each. level_of_box: int64[P]."""
    is_of_level = level_of_box[:, None] == torch.arange(levels, device=level_of_box.device)
    return is_of_level.cumsum(dim=0).gather(1, level_of_box[:, None])[:, 0] - 1


def _best_of_batch(proposals: Sequence[Proposals], count: int) -> list[Proposals]:
    """The best of all images together, in the order they had: the predecessor's way in training."""
    scores = torch.cat([image.scores for image in proposals])
    stays = torch.zeros_like(scores, dtype=torch.bool)
    stays[scores.topk(min(count, len(scores))).indices] = True
    of_images = stays.split_with_sizes([len(image.scores) for image in proposals])
    return [
        Proposals(image.boxes[stay], image.scores[stay])
        for image, stay in zip(proposals, of_images, strict=True)
    ]

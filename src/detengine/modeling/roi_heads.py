"""The second stage: classify, refine and segment the proposals, and find their keypoints."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import Matcher

from detengine.modeling.boxes import BoxArithmetic, Weights
from detengine.modeling.detections import keep_best
from detengine.modeling.fixed_proposals import FixedProposals
from detengine.modeling.fixed_sampling import sample_fixed_rois
from detengine.modeling.keypoint_head import decode_heatmaps, keypoint_loss
from detengine.modeling.mask_head import mask_loss, of_own_class
from detengine.modeling.matching import RoISamples, sample_rois
from detengine.modeling.poolers import to_rois
from detengine.modeling.rpn import Proposals
from detengine.structures.target import Target


class Branch(NamedTuple):
    """One head's way from RoIs to its output.

    pooler: (features, rois) -> float[R, C, S, S]; head: these -> features; predictor: these -> the
    output.
    """

    pooler: nn.Module
    head: nn.Module
    predictor: nn.Module


class SharedBranch(NamedTuple):
    """A head that predicts from the box head's features."""

    predictor: nn.Module
    pooler: None = None
    head: None = None


class RoISampling(NamedTuple):
    """Which proposals are trained on: at most so many of an image, this fraction positive."""

    matcher: Matcher
    samples_per_image: int
    positive_fraction: float


class DetectionLimits(NamedTuple):
    """Which detections of an image are given out.

    score: they are above it. nms: the IoU that suppresses within a class. min_size: of a side, in
    pixels. per_image: the most of one image, 0 for all; keep_ties: beyond them, all that score as
    the last of them does.
    """

    score: float
    nms: float
    min_size: float
    per_image: int
    keep_ties: bool


class ClassBoxes(NamedTuple):
    """One image's proposals as each of the classes, the background first.

    boxes: float32[P, K + 1, 4], xyxy in pixels of the image the model saw, clipped to it.
    scores: float32[P, K + 1].
    """

    boxes: Tensor
    scores: Tensor


class RoIHeads(nn.Module):
    """Fast R-CNN's box head; beside it Mask R-CNN's and Keypoint R-CNN's where they are given.

    The box predictor gives (class logits [R, K + 1], deltas [R, 4 (K + 1)] or, for all classes
    together, [R, 8]), the mask predictor logits [R, K + 1, M, M], the keypoint predictor heatmaps
    [R, J, S, S].
    """

    def __init__(
        self,
        box: Branch,
        mask: Branch | SharedBranch | None = None,
        keypoint: Branch | SharedBranch | None = None,
        *,
        arithmetic: BoxArithmetic,
        box_weights: Weights,
        sampling: RoISampling,
        smooth_l1_beta: float,
        limits: DetectionLimits,
    ) -> None:
        super().__init__()
        self.box_pooler, self.box_head, self.box_predictor = box
        self.has_masks, self.has_keypoints = mask is not None, keypoint is not None
        if mask is not None:
            self.mask_pooler, self.mask_head = mask.pooler, mask.head
            self.mask_predictor = mask.predictor
        if keypoint is not None:
            self.keypoint_pooler, self.keypoint_head = keypoint.pooler, keypoint.head
            self.keypoint_predictor = keypoint.predictor
        self.arithmetic = arithmetic
        self.box_weights = box_weights
        self.sampling = sampling
        self.smooth_l1_beta = smooth_l1_beta
        self.limits = limits

    def losses(
        self,
        features: Sequence[Tensor],
        proposals: Sequence[Proposals] | FixedProposals,
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """The losses of a batch. features: of each level."""
        samples = self.sample(proposals, targets)
        of_boxes = self.box_head(self.box_pooler(features, samples.rois))
        losses = self._box_losses(of_boxes, samples)
        positives, of_positives = samples.positive_rois, of_boxes[: len(samples.matched_boxes)]
        if self.has_masks:
            logits = self.predict_masks(features, positives, of_positives)
            labels = samples.labels[: len(positives)].clamp(min=0)
            losses["loss_mask"] = mask_loss(of_own_class(logits, labels), samples, targets)
        if self.has_keypoints:
            heatmaps = self.predict_keypoints(features, positives, of_positives)
            losses["loss_kp"] = keypoint_loss(heatmaps, samples, targets)
        return losses

    def sample(
        self, proposals: Sequence[Proposals] | FixedProposals, targets: Sequence[Target]
    ) -> RoISamples:
        """The RoIs to train on; of FixedProposals a fixed number of places."""
        matcher, count, fraction = self.sampling
        limits: dict[str, Any] = {"samples_per_image": count, "positive_fraction": fraction}
        if isinstance(proposals, FixedProposals):
            return sample_fixed_rois(
                proposals.boxes, proposals.is_real, targets, matcher, self.arithmetic, **limits
            )
        boxes = [each.boxes for each in proposals]
        return sample_rois(boxes, targets, matcher, self.arithmetic, **limits)

    def class_boxes(
        self,
        features: Sequence[Tensor],
        proposals: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[ClassBoxes]:
        """Each image's proposals, scored and refined as every class; nothing is left out yet."""
        of_boxes = self.box_head(self.box_pooler(features, to_rois(proposals)))
        class_logits, deltas = self.predict_boxes(of_boxes)
        scores = class_logits.softmax(dim=1)
        boxes = self.arithmetic.decode(deltas, torch.cat(list(proposals)), self.box_weights)
        boxes = self._one_for_each_class(boxes, scores.shape[1])
        counts = [len(each) for each in proposals]
        return [
            ClassBoxes(self.arithmetic.clip(image_boxes, size), image_scores)
            for image_boxes, image_scores, size in zip(
                boxes.split_with_sizes(counts),
                scores.split_with_sizes(counts),
                image_sizes,
                strict=True,
            )
        ]

    def finish(
        self, features: Sequence[Tensor], class_boxes: Sequence[ClassBoxes]
    ) -> list[dict[str, Tensor]]:
        """Each image's detections, best first: boxes, scores, labels, and what other heads add.

        That is mask_probs float32[N, M, M]; keypoints float32[N, J, 3] and keypoints_scores.
        features: of the images that the boxes are in.
        """
        detections = [self._select(*image) for image in class_boxes]
        counts = [len(each["labels"]) for each in detections]
        rois = to_rois([each["boxes"] for each in detections])
        if self.has_masks:
            labels = torch.cat([each["labels"] for each in detections])
            logits = of_own_class(self.predict_masks(features, rois), labels)
            mask_probs = logits.sigmoid().split_with_sizes(counts)
            for each, probs in zip(detections, mask_probs, strict=True):
                each["mask_probs"] = probs
        if self.has_keypoints:
            heatmaps = self.predict_keypoints(features, rois).split_with_sizes(counts)
            for each, maps in zip(detections, heatmaps, strict=True):
                each["keypoints"], each["keypoints_scores"] = decode_heatmaps(maps, each["boxes"])
        return detections

    def predict_boxes(self, of_boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits float32[R, K + 1] and deltas float32[R, 4 (K + 1)], or [R, 8]."""
        logits, deltas = self.box_predictor(of_boxes)
        return logits.float(), deltas.float()

    def predict_masks(
        self, features: Sequence[Tensor], rois: Tensor, of_boxes: Tensor | None = None
    ) -> Tensor:
        """[R, K + 1, M, M], logits. of_boxes: the box head's features, where they are there."""
        if self.mask_pooler is None or self.mask_head is None:
            pooled = self._shared(features, rois, of_boxes)
        else:
            pooled = self.mask_head(self.mask_pooler(features, rois))
        logits: Tensor = self.mask_predictor(pooled)
        return logits

    def predict_keypoints(
        self, features: Sequence[Tensor], rois: Tensor, of_boxes: Tensor | None = None
    ) -> Tensor:
        """float32[R, J, S, S], logits."""
        if self.keypoint_pooler is None or self.keypoint_head is None:
            pooled = self._shared(features, rois, of_boxes)
        else:
            pooled = self.keypoint_head(self.keypoint_pooler(features, rois))
        heatmaps: Tensor = self.keypoint_predictor(pooled)
        return heatmaps.float()

    def _shared(self, features: Sequence[Tensor], rois: Tensor, of_boxes: Tensor | None) -> Tensor:
        """The box head's features of the RoIs, of_boxes where they are there already."""
        if of_boxes is None:
            of_boxes = self.box_head(self.box_pooler(features, rois))
        return of_boxes

    def _one_for_each_class(self, boxes: Tensor, classes: int) -> Tensor:
        """float[P, classes, 4]; boxes regressed for all classes together stand in [:, 1]."""
        if boxes.shape[1] == classes:
            return boxes
        return boxes[:, torch.arange(classes, device=boxes.device).clamp(max=1)]

    def _box_losses(self, of_boxes: Tensor, samples: RoISamples) -> dict[str, Tensor]:
        class_logits, deltas = self.predict_boxes(of_boxes)
        count = samples.at_least_one()
        positives = len(samples.matched_boxes)
        deltas_of_classes = deltas.view(len(deltas), -1, 4)[:positives]
        own_class = samples.labels[:positives].clamp(0, deltas_of_classes.shape[1] - 1)
        truth = self.arithmetic.encode(
            samples.matched_boxes, samples.positive_rois[:, 1:], self.box_weights
        )
        box_losses = F.smooth_l1_loss(
            deltas_of_classes.gather(1, own_class[:, None, None].expand(-1, 1, 4))[:, 0],
            samples.zero_where_empty(truth),
            beta=self.smooth_l1_beta,
            reduction="none",
        )
        loss_box_reg = samples.zero_where_empty(box_losses).sum()
        loss_classifier = F.cross_entropy(class_logits, samples.labels, reduction="sum")
        return {"loss_classifier": loss_classifier / count, "loss_box_reg": loss_box_reg / count}

    def _select(self, boxes: Tensor, scores: Tensor) -> dict[str, Tensor]:
        """One image's detections from the fields of its ClassBoxes."""
        limits = self.limits
        is_wanted = scores > limits.score
        if limits.min_size > 0:
            is_wanted &= (self.arithmetic.sides(boxes) >= limits.min_size).all(dim=2)
        proposal, label = torch.where(is_wanted[:, 1:])
        label = label + 1
        boxes, scores = boxes[proposal, label], scores[proposal, label]
        kept = self.arithmetic.nms(boxes, scores, label, limits.nms)
        kept = kept[keep_best(scores[kept], limits.per_image, limits.keep_ties)]
        return {"boxes": boxes[kept], "scores": scores[kept], "labels": label[kept]}

"""The second stage: classify, refine and segment the proposals."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import Matcher

from detengine.modeling.boxes import BoxArithmetic, Weights
from detengine.modeling.matching import RoISamples, sample_rois
from detengine.modeling.poolers import to_rois
from detengine.structures.target import Target

MIN_DETECTION_SIZE = 1e-2
"""Detections narrower or lower than this, in pixels, are dropped: torchvision's number."""


class Branch(NamedTuple):
    """One head's way from RoIs to its output.

    pooler: (features, rois) -> float[R, C, S, S]; head and predictor are torchvision's.
    """

    pooler: nn.Module
    head: nn.Module
    predictor: nn.Module


class RoIHeads(nn.Module):
    """Fast R-CNN's box head, and beside it Mask R-CNN's mask head where one is given.

    The box predictor gives (class logits [R, K + 1], deltas [R, 4 (K + 1)]), the mask predictor
    logits [R, K + 1, M, M].
    """

    def __init__(
        self,
        box: Branch,
        mask: Branch | None = None,
        *,
        arithmetic: BoxArithmetic,
        box_weights: Weights,
        matcher: Matcher,
        samples_per_image: int,
        positive_fraction: float,
        smooth_l1_beta: float,
        score_threshold: float,
        nms_threshold: float,
        detections_per_image: int,
    ) -> None:
        super().__init__()
        self.box_pooler, self.box_head, self.box_predictor = box
        self.has_masks = mask is not None
        if mask is not None:
            self.mask_pooler, self.mask_head, self.mask_predictor = mask
        self.arithmetic = arithmetic
        self.box_weights = box_weights
        self.matcher = matcher
        self.samples_per_image = samples_per_image
        self.positive_fraction = positive_fraction
        self.smooth_l1_beta = smooth_l1_beta
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.detections_per_image = detections_per_image

    def losses(
        self, features: Sequence[Tensor], proposals: Sequence[Tensor], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """The losses of a batch.

        features: of each level; proposals: float[P_i, 4] of each image.
        """
        samples = sample_rois(
            proposals,
            targets,
            self.matcher,
            self.arithmetic,
            samples_per_image=self.samples_per_image,
            positive_fraction=self.positive_fraction,
        )
        losses = self._box_losses(*self._predict_boxes(features, samples.rois), samples)
        if self.has_masks:
            losses["loss_mask"] = self._mask_loss(features, samples, targets)
        return losses

    def detect(
        self,
        features: Sequence[Tensor],
        proposals: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """Each image's detections, best first: boxes, scores, labels[, mask_probs]."""
        class_logits, deltas = self._predict_boxes(features, to_rois(proposals))
        scores = class_logits.softmax(dim=1)
        boxes = self.arithmetic.decode(deltas, torch.cat(list(proposals)), self.box_weights)
        counts = [len(each) for each in proposals]
        detections = [
            self._select(*image)
            for image in zip(
                boxes.split_with_sizes(counts),
                scores.split_with_sizes(counts),
                image_sizes,
                strict=True,
            )
        ]
        if self.has_masks:
            self._add_masks(features, detections)
        return detections

    def _predict_boxes(self, features: Sequence[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits float32[R, K + 1] and deltas float32[R, 4 (K + 1)]."""
        logits, deltas = self.box_predictor(self.box_head(self.box_pooler(features, rois)))
        return logits.float(), deltas.float()

    def _predict_masks(self, features: Sequence[Tensor], rois: Tensor, labels: Tensor) -> Tensor:
        """float32[R, M, M]: the logits of each RoI's own class."""
        logits = self.mask_predictor(self.mask_head(self.mask_pooler(features, rois)))
        own_class: Tensor = logits[torch.arange(len(labels), device=labels.device), labels]
        return own_class.float()

    def _box_losses(
        self, class_logits: Tensor, deltas: Tensor, samples: RoISamples
    ) -> dict[str, Tensor]:
        count = max(len(samples.rois), 1)
        positives = len(samples.matched_boxes)
        own_class = samples.labels[:positives, None, None].expand(-1, 1, 4)
        deltas_of_classes = deltas.view(*class_logits.shape, 4)[:positives]
        loss_box_reg = F.smooth_l1_loss(
            deltas_of_classes.gather(1, own_class)[:, 0],
            self.arithmetic.encode(
                samples.matched_boxes, samples.rois[:positives, 1:], self.box_weights
            ),
            beta=self.smooth_l1_beta,
            reduction="sum",
        )
        loss_classifier = F.cross_entropy(class_logits, samples.labels, reduction="sum")
        return {"loss_classifier": loss_classifier / count, "loss_box_reg": loss_box_reg / count}

    def _mask_loss(
        self, features: Sequence[Tensor], samples: RoISamples, targets: Sequence[Target]
    ) -> Tensor:
        """Binary cross-entropy of each positive's own class; 0, with a graph, if there is none."""
        if any("masks" not in target for target in targets):
            raise ValueError(
                "the model has a mask head, but the targets have no masks; train on a data set "
                "with masks, or without the head (MODEL.MASK_ON False)"
            )
        positives = len(samples.matched_boxes)
        rois = samples.rois[:positives]
        logits = self._predict_masks(features, rois, samples.labels[:positives])
        boxes_of_image = rois[:, 1:].split_with_sizes(
            [len(index) for index in samples.matched_index]
        )
        truth = torch.cat(
            [
                target["masks"].crop_and_resize(index, boxes, logits.shape[-1])
                for target, index, boxes in zip(
                    targets, samples.matched_index, boxes_of_image, strict=True
                )
            ]
        )
        loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="sum")
        return loss / max(truth.numel(), 1)

    def _select(
        self, boxes: Tensor, scores: Tensor, image_size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """One image's detections from boxes float[P, K + 1, 4] and scores float[P, K + 1]."""
        boxes = self.arithmetic.clip(boxes, image_size)
        is_large = (self.arithmetic.sides(boxes) >= MIN_DETECTION_SIZE).all(dim=2)
        proposal, label = torch.where((is_large & (scores > self.score_threshold))[:, 1:])
        label = label + 1
        boxes, scores = boxes[proposal, label], scores[proposal, label]
        kept = self.arithmetic.nms(boxes, scores, label, self.nms_threshold)
        kept = kept[: self.detections_per_image]
        return {"boxes": boxes[kept], "scores": scores[kept], "labels": label[kept]}

    def _add_masks(
        self, features: Sequence[Tensor], detections: Sequence[dict[str, Tensor]]
    ) -> None:
        rois = to_rois([each["boxes"] for each in detections])
        labels = torch.cat([each["labels"] for each in detections])
        mask_probs = self._predict_masks(features, rois, labels).sigmoid()
        counts = [len(each["labels"]) for each in detections]
        for each, probs in zip(detections, mask_probs.split_with_sizes(counts), strict=True):
            each["mask_probs"] = probs

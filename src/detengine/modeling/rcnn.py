"""Faster, Mask and Keypoint R-CNN, and proposals alone, read from top to bottom."""

from collections.abc import Sequence

from torch import Tensor, nn

from detengine.modeling.fixed_proposals import FixedProposals
from detengine.modeling.mask_head import paste_masks
from detengine.modeling.preprocess import Preprocess
from detengine.modeling.roi_heads import ClassBoxes, RoIHeads
from detengine.modeling.rpn import Proposals, RegionProposalNetwork
from detengine.structures.target import Target


class GeneralizedRCNN(nn.Module):
    """Images -> features -> proposals -> losses in training, detections in evaluation.

    images: uint8[3, H, W] in RGB, of any sizes, on the model's device. Boxes are in their pixels.
    Without RoI heads the proposals are what is given out. mask_threshold: where given, detections
    have `masks` too, bool[N, 1, H, W], pasted into the image the model saw. The parameters' names
    are those of torchvision's models.
    """

    takes_uint8 = True
    """Keeps the engine's contract as it is: `adapt` leaves such a model alone."""

    def __init__(
        self,
        preprocess: Preprocess,
        backbone: nn.Module,
        rpn: RegionProposalNetwork,
        roi_heads: RoIHeads | None,
        *,
        mask_threshold: float | None = None,
    ) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.backbone = backbone
        self.rpn = rpn
        self.roi_heads = roi_heads
        self.mask_threshold = mask_threshold

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """In training the losses by name, else each image's detections, best first.

        These are boxes, scores, labels[, mask_probs][, keypoints, keypoints_scores]; of proposals
        boxes and scores. Raises ValueError without targets in training; in evaluation targets are
        ignored.
        """
        if not self.training:
            return self._detect(images)
        if targets is None:
            raise ValueError(
                "the model is in training mode but got no targets; "
                "hand them over, or call model.eval() for detections"
            )
        features, _, proposals, losses = self._propose(images, targets)
        if self.roi_heads is None:
            return losses
        return losses | self.roi_heads.losses(features, proposals, targets)

    def _detect(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        if self.roi_heads is None:
            _, _, proposals, _ = self._propose(images, None)
            return [_best_first(each.boxes, each.scores) for each in _listed(proposals)]
        detections = self.finish(*self.predict_class_boxes(images))
        if self.mask_threshold is not None:
            for each, image in zip(detections, images, strict=True):
                size = (image.shape[1], image.shape[2])
                each["masks"] = paste_masks(
                    each["mask_probs"], each["boxes"], size, self.mask_threshold
                )
        return detections

    def predict_class_boxes(
        self, images: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[ClassBoxes]]:
        """The features of a batch, and each image's proposals as every class.

        This and `finish` are the two halves of evaluation; between them, test-time augmentation
        puts the boxes of several views together.
        """
        features, image_sizes, proposals, _ = self._propose(images, None)
        boxes = [each.boxes for each in _listed(proposals)]
        return features, self._heads().class_boxes(features, boxes, image_sizes)

    def finish(
        self, features: Sequence[Tensor], class_boxes: Sequence[ClassBoxes]
    ) -> list[dict[str, Tensor]]:
        """Each image's detections, best first, from what `predict_class_boxes` gave."""
        return self._heads().finish(features, class_boxes)

    def _propose(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None
    ) -> tuple[
        list[Tensor], list[tuple[int, int]], list[Proposals] | FixedProposals, dict[str, Tensor]
    ]:
        """The features, and of each image its size as (height, width) and its proposals; losses."""
        batch, image_sizes = self.preprocess(images)
        features = self.backbone(batch)
        padded_size = (batch.shape[2], batch.shape[3])
        proposals, losses = self.rpn(features, padded_size, image_sizes, targets)
        return features, image_sizes, proposals, losses

    def _heads(self) -> RoIHeads:
        if self.roi_heads is None:
            raise ValueError(
                "this model gives proposals only (MODEL.RPN_ONLY True), which belong to no class; "
                "build it with RPN_ONLY False"
            )
        return self.roi_heads


def _listed(proposals: list[Proposals] | FixedProposals) -> list[Proposals]:
    """In evaluation the network gives no others."""
    if isinstance(proposals, FixedProposals):
        return [Proposals(*each) for each in proposals.of_images()]
    return proposals


def _best_first(boxes: Tensor, scores: Tensor) -> dict[str, Tensor]:
    order = scores.argsort(descending=True, stable=True)
    return {"boxes": boxes[order], "scores": scores[order]}

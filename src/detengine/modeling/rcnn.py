"""Faster and Mask R-CNN, read from top to bottom."""

from collections.abc import Sequence

from torch import Tensor, nn

from detengine.modeling.preprocess import Preprocess
from detengine.modeling.roi_heads import RoIHeads
from detengine.modeling.rpn import RegionProposalNetwork
from detengine.structures.target import Target


class GeneralizedRCNN(nn.Module):
    """Images -> features -> proposals -> losses in training, detections in evaluation.

    images: uint8[3, H, W] in RGB, of any sizes, on the model's device. Boxes are in their pixels.
    The parameters' names are those of torchvision's models.
    """

    takes_uint8 = True
    """Keeps the engine's contract as it is: `adapt` leaves such a model alone."""

    def __init__(
        self,
        preprocess: Preprocess,
        backbone: nn.Module,
        rpn: RegionProposalNetwork,
        roi_heads: RoIHeads,
    ) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.backbone = backbone
        self.rpn = rpn
        self.roi_heads = roi_heads

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """In training the losses by name, else each image's boxes, scores, labels[, mask_probs].

        Raises ValueError without targets in training; in evaluation targets are ignored.
        """
        if not self.training:
            targets = None
        elif targets is None:
            raise ValueError(
                "the model is in training mode but got no targets; "
                "hand them over, or call model.eval() for detections"
            )
        batch, image_sizes = self.preprocess(images)
        features = self.backbone(batch)
        padded_size = (batch.shape[2], batch.shape[3])
        proposals, rpn_losses = self.rpn(features, padded_size, image_sizes, targets)
        if targets is None:
            detections: list[dict[str, Tensor]] = self.roi_heads.detect(
                features, proposals, image_sizes
            )
            return detections
        losses: dict[str, Tensor] = rpn_losses
        return losses | self.roi_heads.losses(features, proposals, targets)

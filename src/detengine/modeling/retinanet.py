"""RetinaNet, read from top to bottom."""

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.detection.retinanet import (
    RetinaNetClassificationHead,
    RetinaNetHead,
)
from torchvision.ops import Conv2dNormActivation

from detengine.modeling.anchors import AnchorGenerator
from detengine.modeling.preprocess import Preprocess
from detengine.modeling.retinanet_detections import DetectionSelector, ScoredBoxes
from detengine.modeling.retinanet_losses import RetinaNetLosses
from detengine.structures.target import Target


class RetinaNet(nn.Module):
    """Images -> features -> a class and a shift of every anchor -> losses or detections.

    images: uint8[3, H, W] in RGB, of any sizes, on the model's device. Boxes are in their pixels.
    head: features -> cls_logits float[N, A, K] and bbox_regression float[N, A, 4], the anchors of
    all levels in a row, as torchvision's. The parameters' names are those of torchvision's model.
    Source: Lin et al., Focal Loss for Dense Object Detection, arXiv 1708.02002.
    """

    takes_uint8 = True
    """Keeps the engine's contract as it is: `adapt` leaves such a model alone."""

    def __init__(
        self,
        preprocess: Preprocess,
        backbone: nn.Module,
        anchor_generator: AnchorGenerator,
        head: nn.Module,
        *,
        losses: RetinaNetLosses,
        selector: DetectionSelector,
    ) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.backbone = backbone
        self.anchor_generator = anchor_generator
        self.head = head
        self.losses = losses
        self.selector = selector

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """In training the losses by name, else each image's boxes, scores, labels, best first.

        Raises ValueError without targets in training; in evaluation targets are ignored.
        """
        if self.training and targets is None:
            raise ValueError(
                "the model is in training mode but got no targets; "
                "hand them over, or call model.eval() for detections"
            )
        batch, image_sizes = self.preprocess(images)
        logits, deltas, anchors = self.predict(batch)
        if self.training and targets is not None:
            return self.losses(logits, deltas, anchors, targets)
        return self.selector(logits, deltas, anchors, image_sizes)

    def predict_class_boxes(self, images: Sequence[Tensor]) -> tuple[None, list[ScoredBoxes]]:
        """Each image's candidates for detections; before them None, for no features are kept.

        This and `finish` are the two halves of evaluation, named as the R-CNNs': between them,
        test-time augmentation puts the candidates of several views together.
        """
        batch, image_sizes = self.preprocess(images)
        return None, self.selector.scored_boxes(*self.predict(batch), image_sizes)

    def finish(self, features: None, candidates: Sequence[ScoredBoxes]) -> list[dict[str, Tensor]]:
        """Each image's detections, best first, from what `predict_class_boxes` gave."""
        return [self.selector.select(*image) for image in candidates]

    def predict(self, batch: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Class logits float32[N, A, K] and deltas float32[N, A, 4]; of each level its anchors.

        batch: float[N, 3, H, W], as `preprocess` gives it. Anchors are float32[A_l, 4], A of all
        levels together, finest first.
        """
        features = self.backbone(batch)
        predicted = self.head(features)
        anchors = self.anchor_generator(features, (batch.shape[2], batch.shape[3]))
        return predicted["cls_logits"].float(), predicted["bbox_regression"].float(), anchors


def make_retinanet_head(
    in_channels: int, num_anchors: int, num_classes: int, *, num_convs: int, prior: float
) -> RetinaNetHead:
    """torchvision's head, with towers of `num_convs` convolutions and ReLUs.

    num_anchors: of a cell. num_classes: without the background. prior: every class's score at the
    start, in (0, 1). Weights are drawn with a deviation of 0.01, the paper's; all levels share
    them.
    """
    head = RetinaNetHead(in_channels, num_anchors, num_classes)
    head.classification_head = RetinaNetClassificationHead(
        in_channels, num_anchors, num_classes, prior_probability=prior
    )
    for branch in (head.classification_head, head.regression_head):
        branch.conv = _make_tower(in_channels, num_convs)
    return head


def _make_tower(channels: int, num_convs: int) -> nn.Sequential:
    """torchvision's heads have four convolutions, and no argument for another number."""
    tower = nn.Sequential(
        *(Conv2dNormActivation(channels, channels, norm_layer=None) for _ in range(num_convs))
    )
    for layer in tower.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # has one without a norm
    return tower

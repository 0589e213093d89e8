"""What RetinaNet learns from: the focal loss of all anchors, the boxes of the positive ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection._utils import Matcher
from torchvision.ops import sigmoid_focal_loss

from detengine.modeling.boxes import BoxArithmetic, Weights
from detengine.modeling.matching import match_boxes
from detengine.structures.target import Target

BACKGROUND = 0
"""The label of an anchor that stands for no object; classes are 1..K."""
IGNORED = -1
"""The label of an anchor that is too near to an object for background, and not near enough."""


@dataclass(frozen=True)
class RetinaNetLosses:
    """The two losses, in the predecessor's measure (its retinanet/loss.py).

    focal_alpha: the weight of a class that is there, 1 - alpha that of one that is not.
    focal_gamma: the exponent. box_beta: where smooth L1 turns from quadratic to linear. box_divisor
    divides the box loss, for one anchor has several class terms and four coordinates.
    """

    arithmetic: BoxArithmetic
    box_weights: Weights
    matcher: Matcher
    focal_alpha: float
    focal_gamma: float
    box_beta: float
    box_divisor: float

    def __call__(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Sequence[Tensor],
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """loss_retina_cls, over positives and images; loss_retina_reg, over positives.

        logits: float[N, A, K]; deltas: float[N, A, 4]; anchors: float[A_l, 4] of each level, A
        together. Anchors may reach over the image's edge. An image without objects is all
        background.
        """
        all_anchors = torch.cat(list(anchors))
        labels, matched_boxes = self.assign(all_anchors, targets)
        image, anchor = torch.where(labels > BACKGROUND)
        box_loss = F.smooth_l1_loss(
            deltas[image, anchor],
            self.arithmetic.encode(
                matched_boxes[image, anchor], all_anchors[anchor], self.box_weights
            ),
            beta=self.box_beta,
            reduction="sum",
        )
        class_loss = focal_loss(logits, labels, self.focal_alpha, self.focal_gamma)
        return {
            "loss_retina_cls": class_loss / (len(image) + len(targets)),
            "loss_retina_reg": box_loss / max(1, len(image) * self.box_divisor),
        }

    @torch.no_grad()
    def assign(self, anchors: Tensor, targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
        """Of every anchor the label, int64[N, A], and where it is a class the box, float[N, A, 4].

        anchors: float[A, 4], the same for each image. A label is 1..K, BACKGROUND or IGNORED.
        """
        labels, boxes = [], []
        for target in targets:
            matched = match_boxes(anchors, target["boxes"], self.matcher, self.arithmetic)
            # Matches are -2 for neither, -1 for background, 0 and up: shifted, they index.
            neither_nor = target["labels"].new_tensor([IGNORED, BACKGROUND])
            labels.append(torch.cat([neither_nor, target["labels"]])[matched + 2])
            boxes.append(F.pad(target["boxes"], (0, 0, 2, 0))[matched + 2])
        return torch.stack(labels), torch.stack(boxes)


def focal_loss(logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    """The sum of the focal losses of all classes of all anchors that are not IGNORED: float[].

    logits: float[..., K]; labels: int64[...], 1..K, BACKGROUND or IGNORED.
    """
    classes = torch.arange(1, logits.shape[-1] + 1, device=labels.device)
    is_class = (labels[..., None] == classes).to(logits.dtype)
    losses: Tensor = sigmoid_focal_loss(logits, is_class, alpha, gamma)
    # A sum over the classes first, so that the ignored cost no copy of all the rest.
    return losses.sum(dim=-1).where(labels != IGNORED, 0).sum()

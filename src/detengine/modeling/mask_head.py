"""What the mask head learns from, and what becomes of its masks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detengine.modeling.matching import RoISamples
from detengine.structures.masks import RunLengthMasks
from detengine.structures.target import Target


class MaskPixelPredictor(nn.Module):
    """One 1 x 1 convolution: the masks are as large as the head's features."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.mask_fcn_logits = nn.Conv2d(in_channels, num_classes, 1)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.mask_fcn_logits(features)
        return logits


def of_own_class(logits: Tensor, labels: Tensor) -> Tensor:
    """float32[R, M, M] of float[R, K + 1, M, M]: the logits of each RoI's own class."""
    return logits[torch.arange(len(labels), device=labels.device), labels].float()


def mask_loss(logits: Tensor, samples: RoISamples, targets: Sequence[Target]) -> Tensor:
    """Binary cross-entropy over the positives' pixels; 0, with a graph, if there is none.

    logits: float32[P, M, M], of the positives' own classes. Raises ValueError for targets without
    masks.
    """
    if any("masks" not in target for target in targets):
        raise ValueError(
            "the model has a mask head, but the targets have no masks; train on a data set "
            "with masks, or without the head (MODEL.MASK_ON False)"
        )
    truth = torch.cat(
        [
            _run_lengths(target["masks"]).crop_and_resize(index, boxes, logits.shape[-1])
            for target, index, boxes in zip(
                targets, samples.matched_index, samples.positives_of_images(), strict=True
            )
        ]
    )
    losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    pixels = samples.positives() * logits.shape[-1] ** 2
    loss = samples.zero_where_empty(losses).sum()
    return loss / (max(pixels, 1) if isinstance(pixels, int) else pixels.clamp(min=1))


def _run_lengths(masks: RunLengthMasks | Tensor) -> RunLengthMasks:
    """The masks as they are, or of torchvision's dense ones, uint8[N, H, W]."""
    return masks if isinstance(masks, RunLengthMasks) else RunLengthMasks.from_dense(masks)


def paste_masks(
    mask_probs: Tensor, boxes_xyxy: Tensor, size: tuple[int, int], threshold: float
) -> Tensor:
    """bool[N, 1, H, W]: where the masks' probabilities, pasted into the image, exceed a threshold.

    mask_probs: float[N, M, M], each inside its box; size: (height, width).
    """
    pasted: Tensor = paste_masks_in_image(mask_probs[:, None], boxes_xyxy, size)
    return pasted > threshold

"""What a detector says about one image, in the pixels of the stored image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from detengine.structures.mask_encoding import encode_mask_probs
from detengine.structures.rle import RLE

_FIELDS = ("boxes", "scores", "labels", "mask_probs", "keypoints", "keypoints_scores")


@dataclass(frozen=True, eq=False)
class Prediction:
    """N detections of one image, on the CPU.

    - boxes_xyxy: float32[N, 4], pixels of the original image; scores: float32[N].
    - size: (height, width) of the original image, after EXIF rotation.
    - labels: int64[N], 1..K; None for class-agnostic proposals.
    - mask_probs: float32[N, M, M] in [0, 1], each inside its box; rles: N masks of the whole image.
      At most one of the two is there.
    - keypoints: float32[N, J, 3] as x, y, visibility; keypoint_scores: float32[N, J].
    """

    boxes_xyxy: Tensor
    scores: Tensor
    size: tuple[int, int]
    labels: Tensor | None = None
    mask_probs: Tensor | None = None
    rles: list[RLE] | None = None
    keypoints: Tensor | None = None
    keypoint_scores: Tensor | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def from_output(
        cls,
        output: Mapping[str, Any],
        image_size: tuple[int, int],
        original_size: tuple[int, int],
    ) -> "Prediction":
        """From a model's output for one image, rescaled once to the original image, on the CPU.

        output: torchvision's dict (boxes, scores, labels, keypoints, keypoints_scores), masks as
        `mask_probs` float[N, M, M]; whatever else it has is left out. image_size, original_size:
        (height, width) of the image the model saw and of the stored one.
        """
        fields = {key: output[key].detach().cpu() for key in _FIELDS if key in output}
        scale_y, scale_x = (o / i for o, i in zip(original_size, image_size, strict=True))
        keypoints = mask_probs = None
        if "keypoints" in fields:
            keypoints = fields["keypoints"].float() * torch.tensor([scale_x, scale_y, 1.0])
        if "mask_probs" in fields:
            mask_probs = fields["mask_probs"].float()
        return cls(
            boxes_xyxy=fields["boxes"].float() * torch.tensor([scale_x, scale_y] * 2),
            scores=fields["scores"].float(),
            size=original_size,
            labels=fields.get("labels"),
            mask_probs=mask_probs,
            keypoints=keypoints,
            keypoint_scores=fields.get("keypoints_scores"),
        )

    def encoded(self) -> "Prediction":
        """The same prediction with its masks as RLEs of the original image."""
        if self.mask_probs is None:
            return self
        rles = encode_mask_probs(self.mask_probs, self.boxes_xyxy, self.size)
        return replace(self, mask_probs=None, rles=rles)

    def of_labels(self, labels: Sequence[int]) -> "Prediction":
        """The detections that have one of these labels."""
        if self.labels is None:
            raise ValueError("the prediction has no labels: proposals are of no class")
        return self.select(torch.isin(self.labels, torch.tensor(labels)).nonzero()[:, 0])

    def select(self, rows: Tensor) -> "Prediction":
        """Some of the detections, in the order given. rows: int64[n], each in 0..N - 1."""
        kept: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name)[rows]
            for name in ("labels", "mask_probs", "keypoints", "keypoint_scores")
        }
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[rows],
            scores=self.scores[rows],
            rles=None if self.rles is None else [self.rles[row] for row in rows.tolist()],
            **kept,
        )

    def opened(self) -> "Prediction":
        """The same prediction with continuous boxes, given that its boxes are inclusive.

        Each reaches to the far edge of its last pixel, x2 + 1 and y2 + 1: as the predecessor's
        boxes do when they are scored (BoxList.convert). Its masks are drawn into the boxes as they
        were, and so they are here. A box of which less than a pixel was left, and whose last pixel
        so lies before its first, ends where it begins: there the predecessor scores a negative
        width, which overlaps nothing either.
        """
        encoded = self.encoded()
        first, last = encoded.boxes_xyxy[:, :2], encoded.boxes_xyxy[:, 2:]
        return replace(encoded, boxes_xyxy=torch.cat([first, torch.maximum(first, last + 1)], 1))

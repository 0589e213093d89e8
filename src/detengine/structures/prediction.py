"""What a detector says about one image, in the pixels of the stored image."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from detengine.structures.rle import RLE, encode_mask_probs


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

        output: torchvision's dict (boxes, scores, labels, keypoints, keypoints_scores), with masks as
        `mask_probs` float[N, M, M]. image_size, original_size: (height, width) of the image the model
        saw and of the stored one.
        """
        output = {key: value.detach().cpu() for key, value in output.items()}
        scale_y, scale_x = (o / i for o, i in zip(original_size, image_size, strict=True))
        boxes = output["boxes"].float()
        keypoints = output.get("keypoints")
        if keypoints is not None:
            keypoints = keypoints.float() * keypoints.new_tensor([scale_x, scale_y, 1.0])
        mask_probs = output.get("mask_probs")
        return cls(
            boxes_xyxy=boxes * boxes.new_tensor([scale_x, scale_y, scale_x, scale_y]),
            scores=output["scores"].float(),
            size=original_size,
            labels=output.get("labels"),
            mask_probs=None if mask_probs is None else mask_probs.float(),
            keypoints=keypoints,
            keypoint_scores=output.get("keypoints_scores"),
        )

    def encoded(self) -> "Prediction":
        """The same prediction with its masks as RLEs of the original image."""
        if self.mask_probs is None:
            return self
        rles = encode_mask_probs(self.mask_probs, self.boxes_xyxy, self.size)
        return replace(self, mask_probs=None, rles=rles)

"""Test-time augmentation: what a detector finds in several views of an image, merged."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from detengine.data.transforms import transform_sample
from detengine.engine.tta_merging import (
    TORCHVISION_LIMITS,
    CandidateMerging,
    DetectionMerging,
    Merging,
    MergingLimits,
    Size,
    WayBack,
    has_two_steps,
    scale_of,
)
from detengine.modeling.boxes import ContinuousBoxes, InclusiveBoxes
from detengine.structures.batch import Sample


class View(NamedTuple):
    """One way to look at an image: resized, and then mirrored left to right or not."""

    resize: v2.Transform
    mirrored: bool = False

    def of(self, image: Tensor) -> Tensor:
        """uint8[3, H', W'] of uint8[3, H, W], both on the CPU."""
        seen = transform_sample(Sample(image, {}, 0), [self.resize]).image
        return seen.flip(2) if self.mirrored else seen


class TestTimeAugmentation(nn.Module):
    """A detector that sees each image in several views, and decides once for all of them.

    A model with two steps (our R-CNNs and RetinaNet) has the boxes and scores of all views brought
    into the first one's frame, and takes its detections from all together: so the predecessor's
    engine/bbox_aug.py, whose views are the first one mirrored, other sizes, and those mirrored.
    Masks and keypoints, at which the predecessor fails, are those of the merged boxes in the first
    view. Any other model's detections are brought there, and the best of all views stay, each with
    its own mask and keypoints (`DetectionMerging`). One that resizes images itself, as
    torchvision's do, sees little difference between views that are not mirrored.

    In evaluation images are uint8[3, H, W] as they are stored, of any sizes; boxes and keypoints
    come in their pixels. inclusive_pixels: the detector's boxes end at their last pixel. limits,
    keypoint_flip: of a model without two steps. Raises ValueError if it is in training.
    """

    __test__ = False  # pytest takes the name for a class of tests
    takes_uint8 = True

    def __init__(
        self,
        model: nn.Module,
        views: Sequence[View],
        *,
        inclusive_pixels: bool = False,
        limits: MergingLimits = TORCHVISION_LIMITS,
        keypoint_flip: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.views = tuple(views)
        self.inclusive_pixels = inclusive_pixels
        arithmetic = InclusiveBoxes() if inclusive_pixels else ContinuousBoxes()
        two_step: Any = model
        self._merging: Merging = (
            CandidateMerging(two_step)
            if has_two_steps(model)
            else DetectionMerging(model, arithmetic, limits, keypoint_flip)
        )

    def forward(self, images: Sequence[Tensor], targets: Any = None) -> list[dict[str, Tensor]]:
        """Each image's boxes, scores, labels[, mask_probs][, keypoints, keypoints_scores]."""
        if self.training:
            raise ValueError(
                "test-time augmentation does not train; call eval() on it, or train its `model`"
            )
        # workers resize on the CPU, and Pillow can nowhere else
        stored = [image.cpu() for image in images]
        seen = [self.views[0].of(image) for image in stored]
        sizes = [_size_of(image) for image in seen]
        features, found = self._merging.find(_to_device_of(images, seen))
        all_found = [[each] for each in found]
        for view in self.views[1:]:
            for parts, each in zip(all_found, self._find(view, stored, images, sizes), strict=True):
                parts.append(each)
        outputs = self._merging.merge(features, all_found)
        return [
            _rescaled(output, size, _size_of(image))
            for output, size, image in zip(outputs, sizes, stored, strict=True)
        ]

    def _find(
        self, view: View, stored: Sequence[Tensor], images: Sequence[Tensor], sizes: Sequence[Size]
    ) -> list[Any]:
        """What is found in a view of each image, in the frame of the first view of these sizes."""
        seen = [view.of(image) for image in stored]
        _, found = self._merging.find(_to_device_of(images, seen))
        ways = [
            WayBack(view.mirrored, _size_of(image), size, _size_of(own), self.inclusive_pixels)
            for image, size, own in zip(seen, sizes, stored, strict=True)
        ]
        return [self._merging.bring_back(*each) for each in zip(found, ways, strict=True)]


def _rescaled(output: dict[str, Tensor], size: Size, original_size: Size) -> dict[str, Tensor]:
    """The detections of an image of one size, in the pixels of its original."""
    moved = {**output, "boxes": output["boxes"] * scale_of(output["boxes"], size, original_size)}
    if "keypoints" in output:
        points = output["keypoints"]
        xy = points[..., :2] * scale_of(points, size, original_size)[:2]
        moved["keypoints"] = torch.cat([xy, points[..., 2:]], dim=-1)
    return moved


def _to_device_of(images: Sequence[Tensor], seen: Sequence[Tensor]) -> list[Tensor]:
    return [each.to(image.device) for each, image in zip(seen, images, strict=True)]


def _size_of(image: Tensor) -> Size:
    return image.shape[-2], image.shape[-1]

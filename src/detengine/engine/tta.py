"""Test-time augmentation: what a detector finds in several views of an image, merged."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from detengine.data.transforms import transform_sample
from detengine.structures.batch import Sample

if TYPE_CHECKING:
    from detengine.modeling.roi_heads import ClassBoxes

Size = tuple[int, int]
"""(height, width)"""


class TwoStepDetector(Protocol):
    """A detector whose detections can be taken from other boxes than it found itself."""

    def predict_class_boxes(self, images: Sequence[Tensor]) -> tuple[Any, "Sequence[ClassBoxes]"]:
        """The features of all images, and the boxes and scores that each has for every class."""

    def finish(self, features: Any, class_boxes: "Sequence[ClassBoxes]") -> list[dict[str, Tensor]]:
        """Each image's detections: the boxes that stay, with their masks and keypoints."""


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

    Boxes and scores of all views are brought into the first one's frame, and the detector takes its
    detections from all together: so the predecessor's engine/bbox_aug.py, whose views are the first
    one mirrored, other sizes, and those mirrored. Masks and keypoints, at which the predecessor
    fails, are those of the merged boxes in the first view.

    In evaluation images are uint8[3, H, W] as they are stored, of any sizes; boxes and keypoints
    come in their pixels. inclusive_pixels: the detector's boxes end at their last pixel.
    Raises ValueError if the detector has not the two steps, or is in training.
    """

    __test__ = False  # pytest takes the name for a class of tests
    takes_uint8 = True

    def __init__(
        self, model: nn.Module, views: Sequence[View], *, inclusive_pixels: bool = False
    ) -> None:
        super().__init__()
        if not all(hasattr(model, step) for step in ("predict_class_boxes", "finish")):
            raise ValueError(
                f"TEST.BBOX_AUG.ENABLED is True, but {type(model).__name__} cannot merge the boxes "
                "of several views: it has no predict_class_boxes and finish, as R-CNN models with "
                "a box head do (RetinaNet and a BUILDER's may not). "
                "Set TEST.BBOX_AUG.ENABLED to False."
            )
        self.model = model
        self.views = tuple(views)
        self.inclusive_pixels = inclusive_pixels

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
        features, found = self._detector().predict_class_boxes(_to_device_of(images, seen))
        merged = [[each] for each in found]
        for view in self.views[1:]:
            for parts, each in zip(merged, self._find(view, stored, images, sizes), strict=True):
                parts.append(each)
        outputs = self._detector().finish(features, [_joined(parts) for parts in merged])
        return [
            _rescaled(output, size, _size_of(image))
            for output, size, image in zip(outputs, sizes, stored, strict=True)
        ]

    def _detector(self) -> TwoStepDetector:
        detector: Any = self.model
        return detector  # type: ignore[no-any-return]  # checked when it was taken

    def _find(
        self, view: View, stored: Sequence[Tensor], images: Sequence[Tensor], sizes: Sequence[Size]
    ) -> "list[ClassBoxes]":
        """What is found in a view of each image, in the frame of the first view of these sizes."""
        seen = [view.of(image) for image in stored]
        _, found = self._detector().predict_class_boxes(_to_device_of(images, seen))
        return [
            self._brought_back(each, view, _size_of(image), size)
            for each, image, size in zip(found, seen, sizes, strict=True)
        ]

    def _brought_back(
        self, found: "ClassBoxes", view: View, seen_size: Size, size: Size
    ) -> "ClassBoxes":
        boxes = found.boxes
        if view.mirrored:
            x1, y1, x2, y2 = boxes.unbind(-1)
            last = seen_size[1] - 1 if self.inclusive_pixels else seen_size[1]
            boxes = torch.stack([last - x2, y1, last - x1, y2], dim=-1)
        return found._replace(boxes=boxes * _scale(boxes, seen_size, size))


def _joined(parts: "Sequence[ClassBoxes]") -> "ClassBoxes":
    boxes, scores = (torch.cat(column) for column in zip(*parts, strict=True))
    return parts[0]._replace(boxes=boxes, scores=scores)


def _rescaled(output: dict[str, Tensor], size: Size, original_size: Size) -> dict[str, Tensor]:
    """The detections of an image of one size, in the pixels of its original."""
    moved = {**output, "boxes": output["boxes"] * _scale(output["boxes"], size, original_size)}
    if "keypoints" in output:
        points = output["keypoints"]
        xy = points[..., :2] * _scale(points, size, original_size)[:2]
        moved["keypoints"] = torch.cat([xy, points[..., 2:]], dim=-1)
    return moved


def _scale(like: Tensor, size: Size, new_size: Size) -> Tensor:
    """float[4], the factors of x, y, x, y."""
    scale_y, scale_x = (new / old for new, old in zip(new_size, size, strict=True))
    return torch.tensor([scale_x, scale_y] * 2, dtype=like.dtype).to(like.device)


def _to_device_of(images: Sequence[Tensor], seen: Sequence[Tensor]) -> list[Tensor]:
    return [each.to(image.device) for each, image in zip(seen, images, strict=True)]


def _size_of(image: Tensor) -> Size:
    return image.shape[-2], image.shape[-1]

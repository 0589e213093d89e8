"""How what is found in the views of an image becomes one: in one frame, and by one decision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from detengine.modeling.boxes import BoxArithmetic
from detengine.modeling.detections import keep_best

Size = tuple[int, int]
"""(height, width)"""

_NEEDED = ("boxes", "scores", "labels")
_FIELDS = (*_NEEDED, "mask_probs", "keypoints", "keypoints_scores")


class WayBack(NamedTuple):
    """From one view of an image to the first one.

    mirrored: the view, left to right. seen_size: the view's; first_size: the first view's;
    stored_size: the image's own. inclusive_pixels: boxes end at their last pixel.
    """

    mirrored: bool
    seen_size: Size
    first_size: Size
    stored_size: Size
    inclusive_pixels: bool

    def boxes(self, boxes_xyxy: Tensor) -> Tensor:
        """float[..., 4] in the first view's pixels."""
        boxes = boxes_xyxy
        if self.mirrored:
            x1, y1, x2, y2 = boxes.unbind(-1)
            last = self.seen_size[1] - 1 if self.inclusive_pixels else self.seen_size[1]
            boxes = torch.stack([last - x2, y1, last - x1, y2], dim=-1)
        return boxes * scale_of(boxes, self.seen_size, self.first_size)

    def keypoints(self, keypoints: Tensor) -> Tensor:
        """float[..., 3], x, y and visibility, in the first view's pixels.

        A mirror takes a keypoint's x for a pixel's number, as training does
        (`data.build.build_transforms`): of the image as it is stored, and where pixels are
        inclusive of the resized one.
        """
        x, y, visibility = keypoints.unbind(-1)
        if self.mirrored:
            width = self.seen_size[1]
            pixel = 1 if self.inclusive_pixels else width / self.stored_size[1]
            x = width - pixel - x
        scale = scale_of(keypoints, self.seen_size, self.first_size)
        return torch.stack([x * scale[0], y * scale[1], visibility], dim=-1)


def scale_of(like: Tensor, size: Size, new_size: Size) -> Tensor:
    """float[4], the factors of x, y, x, y."""
    scale_y, scale_x = (new / old for new, old in zip(new_size, size, strict=True))
    return torch.tensor([scale_x, scale_y] * 2, dtype=like.dtype).to(like.device)


class Merging(Protocol):
    """Who decides what the detections of all views are, and of what."""

    def find(self, images: Sequence[Tensor]) -> tuple[Any, Sequence[Any]]:
        """What `merge` needs of the first view's images; of each image what is found in it."""

    def bring_back(self, found: Any, way: WayBack) -> Any:
        """The same in the first view's frame."""

    def merge(self, features: Any, found: Sequence[Sequence[Any]]) -> list[dict[str, Tensor]]:
        """Each image's detections, of what is found in all its views, the first one first."""


class TwoStepDetector(Protocol):
    """A detector whose detections can be taken from other boxes than it found itself.

    The boxes of an image are a NamedTuple of tensors with a row for each: `boxes`, float[..., 4],
    and what else its detector knows of them.
    """

    def predict_class_boxes(self, images: Sequence[Tensor]) -> tuple[Any, Sequence[Any]]:
        """The features of all images, and the boxes and scores that each has for every class."""

    def finish(self, features: Any, class_boxes: Sequence[Any]) -> list[dict[str, Tensor]]:
        """Each image's detections: the boxes that stay, with their masks and keypoints."""


def has_two_steps(model: nn.Module) -> bool:
    """Whether it is a TwoStepDetector."""
    return all(hasattr(model, step) for step in ("predict_class_boxes", "finish"))


@dataclass(frozen=True)
class CandidateMerging:
    """The detector takes its detections from the candidates of all views together."""

    detector: TwoStepDetector

    def find(self, images: Sequence[Tensor]) -> tuple[Any, Sequence[Any]]:
        return self.detector.predict_class_boxes(images)

    def bring_back(self, found: Any, way: WayBack) -> Any:
        return found._replace(boxes=way.boxes(found.boxes))

    def merge(self, features: Any, found: Sequence[Sequence[Any]]) -> list[dict[str, Tensor]]:
        joined = [
            type(parts[0])(*(torch.cat(column) for column in zip(*parts, strict=True)))
            for parts in found
        ]
        return self.detector.finish(features, joined)


class MergingLimits(NamedTuple):
    """Which detections of several views stay.

    nms: the IoU that suppresses within a class. per_image: the most of one image, 0 for all;
    keep_ties: beyond them, all that score as the last of them does.
    """

    nms: float
    per_image: int
    keep_ties: bool


TORCHVISION_LIMITS = MergingLimits(nms=0.5, per_image=100, keep_ties=False)
"""Those of its R-CNNs."""


@dataclass(frozen=True)
class DetectionMerging:
    """The best of the detections that the model gives for each view, by NMS within a class.

    Each stays as one view has it, with that view's mask and keypoints. A single view's are all
    kept. keypoint_flip: of each keypoint the one that takes its place in a mirror, None if that is
    not known.
    """

    model: nn.Module
    arithmetic: BoxArithmetic
    limits: MergingLimits
    keypoint_flip: Sequence[int] | None

    def find(self, images: Sequence[Tensor]) -> tuple[None, Sequence[dict[str, Tensor]]]:
        """Raises ValueError for detections without classes."""
        return None, [self._known_fields(output) for output in self.model(images)]

    def bring_back(self, found: dict[str, Tensor], way: WayBack) -> dict[str, Tensor]:
        """Raises ValueError for keypoints in a mirror whose left and right are not known."""
        moved = {**found, "boxes": way.boxes(found["boxes"])}
        if "keypoints" in found:
            moved["keypoints"] = way.keypoints(found["keypoints"])
        return self._mirrored_within(moved) if way.mirrored else moved

    def merge(
        self, features: None, found: Sequence[Sequence[dict[str, Tensor]]]
    ) -> list[dict[str, Tensor]]:
        return [self._best(parts) if len(parts) > 1 else dict(parts[0]) for parts in found]

    def _best(self, parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        all_views = {name: torch.cat([each[name] for each in parts]) for name in parts[0]}
        boxes, scores, labels = (all_views[name] for name in _NEEDED)
        kept = self.arithmetic.nms(boxes, scores, labels, self.limits.nms)
        kept = kept[keep_best(scores[kept], self.limits.per_image, self.limits.keep_ties)]
        return {name: values[kept] for name, values in all_views.items()}

    def _mirrored_within(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Masks mirrored in their boxes, and left keypoints for right ones."""
        mirrored = dict(found)
        if "mask_probs" in found:
            mirrored["mask_probs"] = found["mask_probs"].flip(-1)
        for name in ("keypoints", "keypoints_scores"):
            if name in found:
                mirrored[name] = found[name][:, self._other_sides(found[name].shape[1])]
        return mirrored

    def _known_fields(self, output: Mapping[str, Tensor]) -> dict[str, Tensor]:
        missing = [name for name in _NEEDED if name not in output]
        if missing:
            raise ValueError(
                "TEST.BBOX_AUG.ENABLED is True, but the detections of "
                f"{type(self.model).__name__} have no {' and no '.join(missing)} (only "
                f"{', '.join(output)}): those of several views are merged by class. "
                "Set TEST.BBOX_AUG.ENABLED to False."
            )
        return {name: output[name] for name in _FIELDS if name in output}

    def _other_sides(self, count: int) -> list[int]:
        if self.keypoint_flip is None or len(self.keypoint_flip) != count:
            raise ValueError(sides_not_known(f"the model's {count} keypoints"))
        return list(self.keypoint_flip)


def sides_not_known(of_which: str) -> str:
    """What to say where views are mirrored and keypoints are not known by their sides."""
    return (
        f"TEST.BBOX_AUG mirrors views, but which of {of_which} are left and right is not known. "
        "Name them left_... and right_... under the annotation file's categories "
        "('keypoints': [...]), in Python give keypoint_flip to Predictor, or set "
        "TEST.BBOX_AUG.H_FLIP and TEST.BBOX_AUG.SCALE_H_FLIP to False."
    )

"""What happens to a sample between its file and the batch, on uint8, in the loader's workers.

The stages are transforms of torchvision's `transforms.v2`; the functions around them hand a Sample
over to v2's types and take it back. All that is random is drawn from torch's generator, which
`randomness.seeded` sets for each sample.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from detengine.data.frame import Frame
from detengine.structures.batch import Sample
from detengine.structures.target import Target


class ShortestEdgeResize(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Scale the shorter edge to one of `min_sizes`, unless the longer would exceed `max_size`.

    Both edges are scaled by min(min_size / shorter, max_size / longer) and rounded to the nearest
    pixel, halves up, as in detectron2; bilinear with antialiasing. On uint8 that is torch's own
    kernel: 1.0 ms from 640 x 480 to 1067 x 800, where Pillow takes 5.1.
    """

    def __init__(self, min_sizes: Sequence[int], max_size: int) -> None:
        super().__init__()
        if not min_sizes or min(min_sizes) < 1 or max_size < 1:
            raise ValueError(
                f"resizing needs sizes of at least 1 pixel, but min sizes {tuple(min_sizes)} and "
                f"max size {max_size} were given (INPUT.MIN_SIZE_* and INPUT.MAX_SIZE_*)"
            )
        self.min_sizes = tuple(min_sizes)
        self.max_size = max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = _size_of(flat_inputs)
        min_size = self.min_sizes[0]
        if len(self.min_sizes) > 1:
            min_size = self.min_sizes[int(torch.randint(len(self.min_sizes), ()))]
        scale = min(min_size / min(height, width), self.max_size / max(height, width))
        return {"size": [max(1, int(edge * scale + 0.5)) for edge in (height, width)]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.resize, inpt, **params, antialias=True)


class RandomCrop(v2.Transform):  # type: ignore[misc]
    """Cut out a window of (height, width) at a random place; of a smaller image, what is there."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        if min(size) < 1:
            raise ValueError(
                f"a crop of {size} (height, width) was asked for; at least 1 x 1 is needed"
            )
        self.size = size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        (height, width), (most_high, most_wide) = _size_of(flat_inputs), self.size
        window = min(height, most_high), min(width, most_wide)
        top = int(torch.randint(height - window[0] + 1, ()))
        left = int(torch.randint(width - window[1] + 1, ()))
        return {"top": top, "left": left, "height": window[0], "width": window[1]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.crop, inpt, **params)


def transform_sample(
    sample: Sample, stages: Sequence[v2.Transform], keypoint_flip: Sequence[int] | None = None
) -> Sample:
    """The sample after all stages. The given one is left as it was.

    Boxes are clipped to the image, objects of which nothing is left are dropped, keypoints outside
    become invisible; `image_size` is set. keypoint_flip: for each keypoint the index of the one
    that takes its place in a mirror; needed only where a stage mirrors.
    """
    size = (sample.image.shape[-2], sample.image.shape[-1])
    parts = {"image": tv_tensors.Image(sample.image), "frame": Frame.of(size)}
    if "boxes" in sample.target:
        parts["boxes"] = tv_tensors.BoundingBoxes(
            sample.target["boxes"], format="XYXY", canvas_size=size
        )
    if "keypoints" in sample.target:
        points = sample.target["keypoints"][..., :2]
        parts["keypoints"] = tv_tensors.KeyPoints(points, canvas_size=size)
    for stage in stages:
        parts = stage(parts)
    # contiguous: a crop that is a view would travel with the whole image behind it
    image = parts["image"].as_subclass(Tensor).contiguous()
    return sample._replace(image=image, target=_follow(sample.target, parts, keypoint_flip))


def _follow(target: Target, parts: dict[str, Any], keypoint_flip: Sequence[int] | None) -> Target:
    """The target in the transformed image."""
    frame: Frame = parts["frame"]
    size = frame.canvas_size
    moved = {**target, "image_size": torch.tensor(size)}
    if "boxes" not in target:
        return moved
    boxes = F.clamp_bounding_boxes(parts["boxes"]).as_subclass(Tensor)
    kept = ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).nonzero()[:, 0]
    moved |= {"boxes": boxes[kept], "labels": target["labels"][kept]}
    if "masks" in target:
        moved["masks"] = target["masks"].transformed(size, frame.affine())[kept]
    if "keypoints" in target:
        points = parts["keypoints"].as_subclass(Tensor)
        keypoints = _keypoints(points, target["keypoints"][..., 2], size)[kept]
        moved["keypoints"] = keypoints
        if frame.is_mirrored():
            moved["keypoints"] = _swap_sides(keypoints, keypoint_flip)
    return moved


def _keypoints(points: Tensor, visibility: Tensor, size: tuple[int, int]) -> Tensor:
    """float32[N, J, 3]; those that are absent or outside of the image are all zeros, as in COCO."""
    height, width = size
    x, y = points.unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (visibility > 0)
    return torch.stack([x, y, visibility], dim=-1) * inside[..., None]


def _swap_sides(keypoints: Tensor, keypoint_flip: Sequence[int] | None) -> Tensor:
    if keypoint_flip is None:
        raise ValueError(
            "a flip was asked for, but which keypoints are left and right is not known. Name them "
            "left_... and right_... under the annotation file's categories ('keypoints': [...]), "
            "or set INPUT.HORIZONTAL_FLIP_PROB_TRAIN and INPUT.VERTICAL_FLIP_PROB_TRAIN to 0."
        )
    return keypoints[:, list(keypoint_flip)]


def _size_of(flat_inputs: list[Any]) -> tuple[int, int]:
    """(height, width) of the image among a transform's inputs."""
    image = next(each for each in flat_inputs if isinstance(each, tv_tensors.Image))
    return image.shape[-2], image.shape[-1]

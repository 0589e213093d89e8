"""What happens to a sample between its file and the batch, on uint8, in the loader's workers.

The stages are transforms of torchvision's `transforms.v2`; the functions around them hand a Sample
over to v2's types and take it back. All that is random is drawn from torch's generator, which
`randomness.seeded` sets for each sample.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from detengine.data.frame import Frame
from detengine.data.points import Points
from detengine.structures.batch import Sample
from detengine.structures.target import Target

ResizeStyle = Literal["pillow", "torch"]
"""INPUT.RESIZE: whose bilinear kernel, and with it whose rule for the size."""


def make_resize(style: ResizeStyle, min_sizes: Sequence[int], max_size: int) -> v2.Transform:
    """The stage that resizes, in training and in evaluation alike."""
    kind = PillowResize if style == "pillow" else ShortestEdgeResize
    return kind(min_sizes, max_size)


class ShortestEdgeResize(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Scale the shorter edge to one of `min_sizes`, unless the longer would exceed `max_size`.

    Both edges are scaled by min(min_size / shorter, max_size / longer) and rounded to the nearest
    pixel, halves up, as in detectron2; bilinear with antialiasing. On uint8 that is torch's own
    kernel: 1.0 ms from 640 x 480 to 1067 x 800, where Pillow takes 5.1.
    """

    def __init__(self, min_sizes: Sequence[int], max_size: int) -> None:
        super().__init__()
        _raise_if_below_a_pixel(min_sizes, max_size)
        self.min_sizes = tuple(min_sizes)
        self.max_size = max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = _size_of(flat_inputs)
        min_size = _draw(self.min_sizes)
        scale = min(min_size / min(height, width), self.max_size / max(height, width))
        return {"size": [max(1, int(edge * scale + 0.5)) for edge in (height, width)]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.resize, inpt, **params, antialias=True)


class PillowResize(v2.Transform):  # type: ignore[misc]
    """Scale the shorter edge to one of `min_sizes` by Pillow's bilinear, as the predecessor does.

    For weights trained on its pixels; the size's rule is `pillow_size`. From 640 x 480 to 1066 x
    800 it takes 8.2 ms: Pillow's kernel 6.2, the ways to it and back 0.6, a copy into planes 1.2;
    torch's kernel and copy take 1.7 (best of 60, one thread).
    """

    def __init__(self, min_sizes: Sequence[int], max_size: int) -> None:
        super().__init__()
        _raise_if_below_a_pixel(min_sizes, max_size)
        self.min_sizes = tuple(min_sizes)
        self.max_size = max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        size = pillow_size(_size_of(flat_inputs), _draw(self.min_sizes), self.max_size)
        return {"size": list(size)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Image):
            return self._call_kernel(F.resize, inpt, **params)
        height, width = params["size"]
        picture = Image.fromarray(inpt.permute(1, 2, 0).contiguous().numpy())
        resized = np.array(picture.resize((width, height), Image.Resampling.BILINEAR))
        return tv_tensors.wrap(torch.from_numpy(resized).permute(2, 0, 1), like=inpt)


def pillow_size(size: tuple[int, int], min_size: int, max_size: int) -> tuple[int, int]:
    """The new (height, width) by the predecessor's rule (data/transforms/transforms.py).

    Where the longer edge would exceed max_size, the shorter one becomes the nearest whole number
    that keeps to it; the longer edge follows and is cut off, so that it may exceed max_size a
    little. An edge that would vanish, which the predecessor fails at, is one pixel, and the
    longer one max_size.
    """
    shorter, longer = min(size), max(size)
    if longer / shorter * min_size > max_size:
        min_size = round(max_size * shorter / longer)
    scaled = min_size * longer // shorter
    if min_size == 0:
        min_size, scaled = 1, max_size
    return (scaled, min_size) if size[0] > size[1] else (min_size, scaled)


def scales_of(sizes: Tensor, min_size: int, max_size: int) -> Tensor:
    """float64[I]: by what either rule scales images, but for its rounding.

    sizes: int64[I, 2], (height, width).
    """
    edges = sizes.double()
    return torch.minimum(min_size / edges.amin(dim=1), max_size / edges.amax(dim=1))


class RandomCrop(v2.Transform):  # type: ignore[misc]
    """Cut out a window of (height, width) at a random place; of a smaller image, what is there.

    inclusive_pixels: boxes end at the window's last pixel, not behind it.
    """

    def __init__(self, size: tuple[int, int], *, inclusive_pixels: bool = False) -> None:
        super().__init__()
        if min(size) < 1:
            raise ValueError(
                f"a crop of {size} (height, width) was asked for; at least 1 x 1 is needed"
            )
        self.size = size
        self.inclusive_pixels = inclusive_pixels

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        (height, width), (most_high, most_wide) = _size_of(flat_inputs), self.size
        window = min(height, most_high), min(width, most_wide)
        top = int(torch.randint(height - window[0] + 1, ()))
        left = int(torch.randint(width - window[1] + 1, ()))
        return {"top": top, "left": left, "height": window[0], "width": window[1]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        moved = self._call_kernel(F.crop, inpt, **params)
        if self.inclusive_pixels and isinstance(moved, tv_tensors.BoundingBoxes):
            height, width = moved.canvas_size
            last = torch.tensor([width - 1, height - 1, width - 1, height - 1])
            moved = tv_tensors.wrap(torch.minimum(moved, last), like=moved)
        return moved


def transform_sample(
    sample: Sample,
    stages: Sequence[v2.Transform],
    keypoint_flip: Sequence[int] | None = None,
    *,
    inclusive_pixels: bool = False,
) -> Sample:
    """The sample after all stages. The given one is left as it was.

    Boxes are clipped to the image, objects of which nothing is left are dropped, keypoints outside
    become invisible; `image_size` is set. keypoint_flip: for each keypoint the index of the one
    that takes its place in a mirror; needed only where a stage mirrors.
    inclusive_pixels: the boxes are inclusive, and move as in the predecessor (structures/
    bounding_box.py, keypoint.py, segmentation_mask.py): a box mirrored left to right ends at
    width - 1 - x1, but one mirrored top to bottom at height - y1; masks move as its polygons do, by
    one pixel in either mirror; and nothing that reaches over the image's edge is cut off. Its
    numbers are those of flips that come last.
    """
    size = (sample.image.shape[-2], sample.image.shape[-1])
    parts = {"image": tv_tensors.Image(sample.image), "frame": Frame.of(size)}
    if "boxes" in sample.target:
        parts["boxes"] = tv_tensors.BoundingBoxes(
            sample.target["boxes"], format="XYXY", canvas_size=size
        )
    if "keypoints" in sample.target:
        parts["keypoints"] = Points.of(sample.target["keypoints"][..., :2], size)
    for stage in stages:
        parts = stage(parts)
    image = _dense(parts["image"].as_subclass(Tensor))
    target = _follow(sample.target, parts, keypoint_flip, inclusive_pixels)
    return sample._replace(image=image, target=target)


def _dense(image: Tensor) -> Tensor:
    """The image in memory of its own size, by pixel or by plane as it is.

    Images are decoded and resized by pixel; turning that into planes is the device's affair, whom
    it costs nothing. A crop is a view, behind which the whole image would stay.
    """
    by_pixel = image.permute(1, 2, 0)
    is_dense = by_pixel.is_contiguous() or image.is_contiguous()
    if is_dense and image.untyped_storage().nbytes() == image.nbytes:
        return image
    return by_pixel.clone(memory_format=torch.contiguous_format).permute(2, 0, 1)


def _follow(
    target: Target,
    parts: dict[str, Any],
    keypoint_flip: Sequence[int] | None,
    inclusive_pixels: bool,
) -> Target:
    """The target in the transformed image."""
    frame: Frame = parts["frame"]
    size = frame.canvas_size
    moved = {**target, "image_size": torch.tensor(size)}
    if "boxes" not in target:
        return moved
    boxes = _boxes(parts["boxes"], frame, inclusive_pixels)
    kept = ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).nonzero()[:, 0]
    moved |= {"boxes": boxes[kept], "labels": target["labels"][kept]}
    if "masks" in target:
        to_stored = _shifted_by_mirrors(frame) if inclusive_pixels else frame
        moved["masks"] = target["masks"].transformed(size, to_stored.affine())[kept]
    if "keypoints" in target:
        points = parts["keypoints"].as_subclass(Tensor)
        within = None if inclusive_pixels else size
        keypoints = _keypoints(points, target["keypoints"][..., 2], within)[kept]
        moved["keypoints"] = keypoints
        if frame.is_mirrored():
            moved["keypoints"] = _swap_sides(keypoints, keypoint_flip)
    return moved


def _boxes(boxes: tv_tensors.BoundingBoxes, frame: Frame, inclusive_pixels: bool) -> Tensor:
    """float32[N, 4]"""
    if not inclusive_pixels:
        clipped: Tensor = F.clamp_bounding_boxes(boxes).as_subclass(Tensor)
        return clipped
    left_to_right, _ = frame.flips()
    plain: Tensor = boxes.as_subclass(Tensor)
    return plain - torch.tensor([1.0, 0.0, 1.0, 0.0]) if left_to_right else plain


def _shifted_by_mirrors(frame: Frame) -> Frame:
    """The frame of masks that mirror a point x to width - 1 - x, as if it were a pixel."""
    left_to_right, top_to_bottom = frame.flips()
    return frame.moved((1.0, float(left_to_right), 1.0, float(top_to_bottom)), frame.canvas_size)


def _keypoints(points: Tensor, visibility: Tensor, within: tuple[int, int] | None) -> Tensor:
    """float32[N, J, 3]; absent ones, and those outside of the size `within`, are all zeros."""
    x, y = points.unbind(-1)
    seen = visibility > 0
    if within is not None:
        height, width = within
        seen = seen & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return torch.stack([x, y, visibility], dim=-1) * seen[..., None]


def _swap_sides(keypoints: Tensor, keypoint_flip: Sequence[int] | None) -> Tensor:
    if keypoint_flip is None:
        raise ValueError(
            "a flip was asked for, but which keypoints are left and right is not known. Name them "
            "left_... and right_... under the annotation file's categories ('keypoints': [...]), "
            "or set INPUT.HORIZONTAL_FLIP_PROB_TRAIN and INPUT.VERTICAL_FLIP_PROB_TRAIN to 0."
        )
    return keypoints[:, list(keypoint_flip)]


def _raise_if_below_a_pixel(min_sizes: Sequence[int], max_size: int) -> None:
    if not min_sizes or min(min_sizes) < 1 or max_size < 1:
        raise ValueError(
            f"resizing needs sizes of at least 1 pixel, but min sizes {tuple(min_sizes)} and "
            f"max size {max_size} were given (INPUT.MIN_SIZE_* and INPUT.MAX_SIZE_*)"
        )


def _draw(min_sizes: Sequence[int]) -> int:
    """One of the sizes; of a single one without touching the generator."""
    if len(min_sizes) == 1:
        return min_sizes[0]
    return min_sizes[int(torch.randint(len(min_sizes), ()))]


def _size_of(flat_inputs: list[Any]) -> tuple[int, int]:
    """(height, width) of the image among a transform's inputs."""
    image = next(each for each in flat_inputs if isinstance(each, tv_tensors.Image))
    return image.shape[-2], image.shape[-1]

"""RoIAlign over the levels of a pyramid."""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detengine.modeling.boxes import BoxArithmetic
from detengine.modeling.roi_align import Sampling, roi_align

LevelRule = Literal["detectron", "torchvision"]

_OUTSIDE = -1e6
"""A coordinate in pixels that is more than a feature away from every image."""


def to_rois(boxes_of_images: Sequence[Tensor]) -> Tensor:
    """float[R, 5] from each image's float[R_i, 4]: the image's index, then xyxy."""
    return torch.cat([F.pad(boxes, (1, 0), value=i) for i, boxes in enumerate(boxes_of_images)])


class Pooler(nn.Module):
    """Cut each RoI out of the level that fits its size, at output_size x output_size.

    pyramid_strides: of all feature maps handed to forward; strides: of those to pool from,
    consecutive powers of two. Which level fits is equation 1 of the FPN paper (arXiv 1612.03144): a
    square of 224 pixels belongs to stride 16, half of it to stride 8. arithmetic: what an area is.
    level_rule: where the 1e-6 stands that lifts a side just below a power of two: in the logarithm
    as in the predecessor (poolers.py), or behind it as in torchvision. One level takes all RoIs.
    aligned: a feature stands in the middle of its pixel, as in detectron2, not at its corner.
    static_shapes: do not ask the device how many RoIs belong to each level, but pool every RoI from
    every level, outside of those that are not its own, where all is 0; the result is the same.

    torchvision's MultiScaleRoIAlign guesses the strides from its first batch and keeps them, which
    goes wrong when those images are smaller than their padding; here they are given.
    """

    def __init__(
        self,
        pyramid_strides: Sequence[int],
        strides: Sequence[int],
        output_size: int,
        sampling_ratio: int,
        *,
        arithmetic: BoxArithmetic,
        level_rule: LevelRule,
        aligned: bool = False,
        static_shapes: bool = False,
    ) -> None:
        super().__init__()
        self.levels = [list(pyramid_strides).index(stride) for stride in strides]
        self.strides = list(strides)
        self.output_size = output_size
        self.sampling_ratio = sampling_ratio
        self.arithmetic = arithmetic
        self.level_rule = level_rule
        self.aligned = aligned
        self.static_shapes = static_shapes

    def forward(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        """features: float[N, C, H, W] of each level; rois: float[R, 5].

        Returns float[R, C, S, S].
        """
        if len(self.levels) == 1:
            return self._pool(features, rois, 0).to(features[0].dtype)
        level = self.level_of(rois)
        if self.static_shapes:
            return self._pool_everywhere(features, rois, level).to(features[0].dtype)
        order = level.argsort(stable=True)
        is_of_level = level[:, None] == torch.arange(len(self.levels), device=rois.device)
        order_of_level = order.split_with_sizes(is_of_level.sum(0).tolist())
        of_levels = (self._pool(features, rois[own], i) for i, own in enumerate(order_of_level))
        if not torch.is_grad_enabled():
            return self._put_in_place(of_levels, order_of_level, features[0], len(rois))
        by_level = torch.cat(list(of_levels)).to(features[0].dtype)
        # Its gradient is a selection, where that of indexing by the inverse order is a slow sum.
        return torch.empty_like(by_level).index_copy(0, order, by_level)

    def _put_in_place(
        self,
        of_levels: Iterator[Tensor],
        order_of_level: Sequence[Tensor],
        like: Tensor,
        count: int,
    ) -> Tensor:
        """Without a gradient, level by level: of all of it together there is one copy."""
        side = self.output_size
        pooled = like.new_empty(count, like.shape[1], side, side)
        for own, of_level in zip(order_of_level, of_levels, strict=True):
            pooled.index_copy_(0, own, of_level.to(like.dtype))
        return pooled

    def _pool_everywhere(self, features: Sequence[Tensor], rois: Tensor, level: Tensor) -> Tensor:
        boxes, pooled = rois[:, 1:], torch.zeros((), device=rois.device)
        for position in range(len(self.levels)):
            own = boxes.where((level == position)[:, None], _OUTSIDE)
            of_level = self._pool(features, torch.cat([rois[:, :1], own], dim=1), position)
            pooled = of_level if position == 0 else pooled.add_(of_level)
        return pooled

    def _pool(self, features: Sequence[Tensor], rois: Tensor, level: int) -> Tensor:
        """From one level, a position in `strides`."""
        exact = features[self.levels[level]].to(rois.dtype)  # bfloat16 would round rois by pixels
        scale = 1 / self.strides[level]
        return roi_align(
            exact, rois, Sampling(self.output_size, scale, self.sampling_ratio, self.aligned)
        )

    def level_of(self, rois: Tensor) -> Tensor:
        """int64[R]: a position in `strides`."""
        scale = self.arithmetic.area(rois[:, 1:]).sqrt() / 224
        if self.level_rule == "detectron":
            stride_exponent = torch.floor(4 + torch.log2(scale + 1e-6))
        else:
            stride_exponent = torch.floor(4 + torch.log2(scale) + 1e-6)
        finest, coarsest = self.strides[0].bit_length() - 1, self.strides[-1].bit_length() - 1
        return stride_exponent.clamp(finest, coarsest).long() - finest

"""RoIAlign over a pyramid's levels without a number that the host would have to ask for."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detengine.modeling.poolers import Pooler
from detengine.modeling.rpn import rank_in_level


class ExportPooler(nn.Module):
    """What a Pooler gives, in operators that ONNX has: each level pools its own regions.

    They are put back into their order by counting: a region stands behind all regions of finer
    levels, and behind those of its own level that come before it.
    """

    def __init__(self, pooler: Pooler) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        """features: float[N, C, H, W] of each level; rois: float[R, 5]. float[R, C, S, S]."""
        levels = len(self.pooler.levels)
        if levels == 1:
            return self._pool(features, rois, 0)
        level = self.pooler.level_of(rois)
        by_level = [
            self._pool(features, rois[torch.where(level == position)[0]], position)
            for position in range(levels)
        ]
        finer = torch.stack([(level < position).sum() for position in range(levels)])
        return torch.cat(by_level)[finer[level] + rank_in_level(level, levels)]

    def _pool(self, features: Sequence[Tensor], rois: Tensor, level: int) -> Tensor:
        pooler = self.pooler
        side, ratio = pooler.output_size, max(pooler.sampling_ratio, 0)  # both: as many as fit
        pooled: Tensor = torch.ops.torchvision.roi_align(
            features[pooler.levels[level]],
            rois,
            1 / pooler.strides[level],
            side,
            side,
            ratio,
            pooler.aligned,
        )
        return pooled

"""The choice of proposals for all images of a batch at once, in shapes that the data do not change.

As `RegionProposalNetwork` chooses, with continuous boxes and the best first; only the order of
proposals of the very same score may be another one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from detengine.modeling.suppression import survivors


class FixedProposals(NamedTuple):
    """P places of each of N images, those that are taken first, and of these the best.

    boxes: float32[N, P, 4], xyxy; scores: float32[N, P]; is_real: bool[N, P], whether one is taken.
    """

    boxes: Tensor
    scores: Tensor
    is_real: Tensor

    def of_images(self) -> list[tuple[Tensor, Tensor]]:
        """Each image's real boxes and scores. The host waits for their numbers, once."""
        counts = self.is_real.sum(dim=1).tolist()
        return [
            (boxes[:count], scores[:count])
            for boxes, scores, count in zip(self.boxes, self.scores, counts, strict=True)
        ]


@torch.no_grad()
def choose_fixed(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    *,
    min_size: float,
    nms_threshold: float,
    of_level: int,
    of_image: int | None,
) -> FixedProposals:
    """The large enough that survive their level's NMS: the best of each level, then of each image.

    boxes: of each level float32[N, K, 4], clipped, best first; scores: float32[N, K], in [0, 1].
    of_level, of_image: at most so many; None for all.
    """
    all_boxes, all_scores = torch.cat(list(boxes), dim=1), torch.cat(list(scores), dim=1)
    is_large = (all_boxes[..., 2:] - all_boxes[..., :2] >= min_size).all(dim=2)
    stays = is_large & _survivors_of_levels(all_boxes, is_large, boxes, nms_threshold)
    sizes = [each.shape[1] for each in boxes]
    if of_level < max(sizes):
        ranks = [level.cumsum(dim=1) for level in stays.split_with_sizes(sizes, dim=1)]
        stays &= torch.cat(ranks, dim=1) <= of_level
    places = all_scores.shape[1] if of_image is None else min(of_image, all_scores.shape[1])
    best, index = all_scores.where(stays, -1).topk(places, dim=1)
    chosen = all_boxes.gather(1, index[:, :, None].expand(-1, -1, 4))
    return FixedProposals(chosen, best.clamp(min=0), best >= 0)


def _survivors_of_levels(
    all_boxes: Tensor, is_large: Tensor, levels: Sequence[Tensor], nms_threshold: float
) -> Tensor:
    """bool[N, K of all levels]. What is too small suppresses nothing: it is made a point."""
    images, sizes = len(all_boxes), [each.shape[1] for each in levels]
    effective = all_boxes.where(is_large[:, :, None], 0).split_with_sizes(sizes, dim=1)
    groups = torch.cat([F.pad(each, (0, 0, 0, max(sizes) - each.shape[1])) for each in effective])
    stays = survivors(groups, nms_threshold).split_with_sizes([images] * len(sizes))
    return torch.cat([each[:, :size] for each, size in zip(stays, sizes, strict=True)], dim=1)

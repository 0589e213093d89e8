"""Which of an image's detections are kept."""

import torch
from torch import Tensor


def keep_best(scores: Tensor, limit: int, keep_ties: bool) -> Tensor:
    """The places of the `limit` highest scores, best first: int64[K] into scores, float[D].

    limit: 0 or less keeps all. keep_ties: all that score as high as the last one to be kept stay
    too, so that K may be above the limit: the predecessor's cut at the k-th value (inference.py of
    its box head and of its RetinaNet). Without it, of equal scores the earlier ones are kept.
    """
    order = scores.argsort(descending=True, stable=True)
    if limit <= 0 or len(order) <= limit:
        return order
    if not keep_ties:
        return order[:limit]
    best_first = scores[order]
    return order[torch.where(best_first >= best_first[limit - 1])[0]]

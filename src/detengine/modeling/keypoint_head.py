"""What the keypoint head learns from, and how its heatmaps become points."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import keypoints_to_heatmap

from detengine.modeling.matching import RoISamples
from detengine.structures.target import Target

_NOT_LEARNT = -100
"""What cross-entropy leaves out."""


def keypoint_loss(heatmaps: Tensor, samples: RoISamples, targets: Sequence[Target]) -> Tensor:
    """Cross-entropy over each heatmap's bins, the mean over the keypoints that can be learnt.

    These are the visible ones inside their RoI, of objects with at least one visible keypoint
    inside their own box. 0, with a graph, if there is none. heatmaps: float32[P, J, S, S], of the
    positives. Raises ValueError for targets without keypoints, or with another number of them.
    """
    _raise_if_keypoints_do_not_fit(targets, heatmaps.shape[1])
    side = heatmaps.shape[-1]
    bins = []
    for target, index, boxes in zip(
        targets, samples.matched_index, samples.positives_of_images(), strict=True
    ):
        keypoints = _at_least_one(target["keypoints"])[index]
        objects = _at_least_one(target["boxes"])[index]
        bin_of_keypoint, is_learnt = keypoints_to_heatmap(keypoints, boxes, side)
        is_learnt = is_learnt.bool() & _is_seen(keypoints, objects)[:, None]
        bins.append(torch.where(is_learnt, bin_of_keypoint, _NOT_LEARNT).flatten())
    truth = torch.cat(bins)
    if samples.is_positive is not None:
        is_taken = samples.is_positive.repeat_interleave(heatmaps.shape[1], output_size=len(truth))
        truth = truth.where(is_taken, _NOT_LEARNT)
    loss = F.cross_entropy(
        heatmaps.reshape(len(truth), side * side),
        truth,
        ignore_index=_NOT_LEARNT,
        reduction="sum",
    )
    return loss / (truth != _NOT_LEARNT).sum().clamp(min=1)


def _at_least_one(rows: Tensor) -> Tensor:
    """Of none, one of zeros: the empty places of an image without objects are at 0."""
    return rows if len(rows) else rows.new_zeros(1, *rows.shape[1:])


def _is_seen(keypoints: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """bool[N]: whether an object has a visible keypoint within its box."""
    points, corners = keypoints[:, :, :2], boxes_xyxy[:, None]
    within = (points >= corners[..., :2]) & (points <= corners[..., 2:])
    return (within.all(dim=2) & (keypoints[:, :, 2] > 0)).any(dim=1)


def _raise_if_keypoints_do_not_fit(targets: Sequence[Target], count: int) -> None:
    for target in targets:
        if "keypoints" not in target:
            raise ValueError(
                "the model has a keypoint head, but the targets have no keypoints; train on a "
                "data set with keypoints, or without the head (MODEL.KEYPOINT_ON False)"
            )
        given = target["keypoints"].shape[1]
        if given != count and len(target["keypoints"]):
            raise ValueError(
                f"the targets have {given} keypoints each, but the model predicts {count}; set "
                f"MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES to {given}"
            )


def decode_heatmaps(heatmaps: Tensor, boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Where each heatmap, resized to its box, is highest, and how high.

    heatmaps: float32[N, J, S, S]; boxes_xyxy: float[N, 4]. Returns float32[N, J, 3], x, y and 1,
    and float32[N, J], logits. A box is resized to whole pixels, rounded up, bicubically, and a
    pixel's middle is its place: Detectron's way, as in torchvision and in the predecessor
    (roi_heads/keypoint_head/inference.py).
    """
    sides = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).clamp(min=1)
    found = [
        _highest(maps, width, height)
        for maps, (width, height) in zip(heatmaps, sides.ceil().int().tolist(), strict=True)
    ]
    if not found:
        count = heatmaps.shape[1]
        return heatmaps.new_zeros(0, count, 3), heatmaps.new_zeros(0, count)
    pixels = torch.stack([pixel for pixel, _ in found])
    points = (pixels + 0.5) * (sides / sides.ceil())[:, None] + boxes_xyxy[:, None, :2]
    return F.pad(points, (0, 1), value=1.0), torch.stack([height for _, height in found])


def _highest(maps: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """The (x, y) of the highest pixel, float[J, 2], and its value, float[J], of maps [J, S, S]."""
    resized = F.interpolate(maps[:, None], (height, width), mode="bicubic")[:, 0]
    value, position = resized.flatten(1).max(dim=1)
    return torch.stack([position % width, position // width], dim=1).to(maps.dtype), value

"""Matching and drawing for all images of a batch at once, in shapes that do not depend on the data.

`matching` asks the device how many positives there are and draws from exactly these, so that the
host waits for every image. Here each image has the same number of places, of which some may be
empty, and nothing is read. The draw is uniform too, but another one: a seed gives other samples.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection._utils import Matcher

from detengine.modeling.boxes import BoxArithmetic
from detengine.modeling.matching import BACKGROUND, RoISamples, match_overlaps
from detengine.structures.target import Target

NOT_USED = -100
"""The label of an empty place, which cross-entropy leaves out."""

_PAIRS_AT_ONCE = 2**26
"""Of boxes whose IoU is computed: 256 MiB in float32, and a few times that on the way."""


class Truth(NamedTuple):
    """The objects of N images, each padded to the same number T, at least 1.

    boxes: float[N, T, 4]; labels: int64[N, T]; is_real: bool[N, T].
    """

    boxes: Tensor
    labels: Tensor
    is_real: Tensor


class Draw(NamedTuple):
    """S places of each of N images, positives first.

    candidate: int64[N, S], an index. is_positive, is_used: bool[N, S]; a positive place is used, an
    empty one has any candidate.
    """

    candidate: Tensor
    is_positive: Tensor
    is_used: Tensor


def upload(values: Sequence[object], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of what the host knows; the host does not wait for the device to have it."""
    on_host = torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda")
    return on_host.to(device, non_blocking=True)


def pad_truth(targets: Sequence[Target], device: torch.device) -> Truth:
    counts = [len(target["boxes"]) for target in targets]
    longest = max(1, *counts)
    boxes, labels = (
        torch.stack(
            [
                F.pad(target[key], (*(0, 0) * (target[key].dim() - 1), 0, longest - count))
                for target, count in zip(targets, counts, strict=True)
            ]
        )
        for key in ("boxes", "labels")
    )
    places = torch.arange(longest, device=device)
    return Truth(boxes, labels, places < upload(counts, torch.int64, device)[:, None])


def match_all(
    candidates: Tensor, truth: Truth, matcher: Matcher, arithmetic: BoxArithmetic
) -> Tensor:
    """int64[N, R]: of each candidate what `match_boxes` says of it.

    candidates: float[N, R, 4], or float[R, 4] for all images.
    """
    shared = candidates.dim() == 2
    pairs = truth.boxes.shape[1] * candidates.shape[-2]
    step = max(1, _PAIRS_AT_ONCE // max(1, pairs))
    matched = []
    for first in range(0, len(truth.boxes), step):
        part = Truth(*(each[first : first + step] for each in truth))
        own = candidates if shared else candidates[first : first + step]
        iou = arithmetic.iou(part.boxes, own)
        matched.append(match_overlaps(iou, matcher, part.is_real))
    return torch.cat(matched)


def draw_balanced(matched: Tensor, count: int, positive_fraction: float) -> Draw:
    """At most `count` candidates of each image, at most this fraction of them positive.

    matched: int64[N, R]; what is neither positive nor background, -2, is not drawn. S is `count`,
    or R where that is less. Every subset of the right size is as likely as any other.
    """
    places = min(count, matched.shape[1])
    most = min(int(count * positive_fraction), matched.shape[1])
    key = torch.rand(matched.shape, device=matched.device)
    positive_key, positive = key.where(matched >= 0, -1).topk(most, dim=1)
    negative_key, negative = key.where(matched == BACKGROUND, -1).topk(places, dim=1)
    positives = (positive_key >= 0).sum(dim=1, keepdim=True)
    place = torch.arange(places, device=matched.device).expand(len(matched), -1)
    is_positive = place < positives
    behind = (place - positives).clamp(min=0)
    is_negative = ~is_positive & (negative_key.gather(1, behind) >= 0)
    index = negative.gather(1, behind)
    if most:
        index = torch.where(is_positive, positive.gather(1, place.clamp(max=most - 1)), index)
    return Draw(index, is_positive, is_positive | is_negative)


def rows(values: Tensor, index: Tensor) -> Tensor:
    """[N, S, ...] of [N, R, ...] at int64[N, S]."""
    image = torch.arange(len(index), device=index.device)[:, None]
    return values[image, index]


@torch.no_grad()
def sample_fixed_rois(
    proposals: Tensor,
    is_real: Tensor,
    targets: Sequence[Target],
    matcher: Matcher,
    arithmetic: BoxArithmetic,
    *,
    samples_per_image: int,
    positive_fraction: float,
) -> RoISamples:
    """As `sample_rois`, from proposals float[N, P, 4] of which those are that is_real, bool[N, P].

    The places that may be positive stand first, image by image, then all others.
    """
    truth = pad_truth(targets, proposals.device)
    candidates = torch.cat([proposals, truth.boxes], dim=1)
    matched = match_all(candidates, truth, matcher, arithmetic)
    may_be_drawn = torch.cat([is_real, truth.is_real], dim=1)
    matched = matched.masked_fill(~may_be_drawn, Matcher.BETWEEN_THRESHOLDS)
    drawn = draw_balanced(matched, samples_per_image, positive_fraction)
    return to_roi_samples(drawn, candidates, matched, truth, positive_fraction, samples_per_image)


def to_roi_samples(
    drawn: Draw,
    candidates: Tensor,
    matched: Tensor,
    truth: Truth,
    positive_fraction: float,
    samples_per_image: int,
) -> RoISamples:
    """What was drawn, in the order that the heads want it: see `sample_fixed_rois`."""
    most = min(int(samples_per_image * positive_fraction), drawn.candidate.shape[1])
    images = torch.arange(len(candidates), device=candidates.device, dtype=candidates.dtype)
    boxes = rows(candidates, drawn.candidate)
    rois = torch.cat([images[:, None, None].expand(-1, boxes.shape[1], 1), boxes], dim=2)
    object_index = rows(matched, drawn.candidate).clamp(min=0)
    labels = rows(truth.labels, object_index).where(drawn.is_positive, 0)
    labels = labels.where(drawn.is_used, NOT_USED)
    of_positives = object_index[:, :most]
    return RoISamples(
        torch.cat([rois[:, :most].flatten(0, 1), rois[:, most:].flatten(0, 1)]),
        torch.cat([labels[:, :most].flatten(), labels[:, most:].flatten()]),
        rows(truth.boxes, of_positives).flatten(0, 1),
        list(of_positives),
        drawn.is_positive[:, :most].flatten(),
        drawn.is_used.sum(),
    )

"""The boxes of the training sets against the anchors of the model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detengine.config.load import replace
from detengine.config.schema import Config
from detengine.data.annotations import image_of_annotation
from detengine.data.transforms import scales_of
from detengine.modeling.anchor_fit import AnchorFit, best_overlaps, better_sizes, measure_fit
from detengine.modeling.build_anchors import anchor_keys, build_anchor_generator
from detengine.structures.finding import Finding
from detengine.structures.ground_truth import GroundTruth

_MOST_BOXES = 20_000
"""More are taken evenly from among them."""
_TOO_MANY = 0.1
"""The share of boxes whose best anchor overlaps them by less than half from which on it is worth a
warning."""
_WORTH_IT = 0.7
"""What other sizes must make of that share to be named."""


@dataclass(frozen=True)
class AnchorReport:
    """key: of the sizes; threshold: from which IoU on an anchor is an object's."""

    key: str
    sizes: tuple[int, ...]
    threshold: float
    fit: AnchorFit


def examine_anchors(
    cfg: Config, truths: Sequence[GroundTruth]
) -> tuple[AnchorReport | None, list[Finding]]:
    """The fit at all of INPUT.MIN_SIZE_TRAIN, and what is to be said of it.

    None for a BUILDER's model, whose anchors are its own affair, and where there are no boxes.
    """
    if cfg.MODEL.BUILDER is not None:
        return None, []
    boxes, sizes = _resized_boxes(cfg, truths)
    if not len(boxes):
        return None, []
    key, anchor_sizes, threshold = anchor_keys(cfg)
    fit = measure_fit(boxes, sizes, build_anchor_generator(cfg), threshold)
    report = AnchorReport(key, anchor_sizes, threshold, fit)
    if fit.share_below_half <= _TOO_MANY:
        return report, []
    low, middle, high = (round(each) for each in fit.sides)
    also = f" ({100 * fit.share_below:.0f} % none by {threshold:g}, which makes it the object's)"
    what = (
        f"{100 * fit.share_below_half:.0f} % of the boxes overlap no anchor by half"
        f"{also if threshold != 0.5 else ''}. After resizing 90 of 100 are {low} to {high} pixels "
        f"in size, the median {middle}; {key} is {list(anchor_sizes)}"
    )
    return report, [Finding("warning", "anchors", what, _cure(cfg, report, boxes, sizes))]


def _resized_boxes(cfg: Config, truths: Sequence[GroundTruth]) -> tuple[Tensor, Tensor]:
    """float32[N, 4] as xyxy, and float32[N, 2], their images' (height, width), in the network's
    input; each box at each of the sizes in training."""
    parts = [_boxes_of(truth) for truth in truths]
    if not parts:
        return torch.empty(0, 4), torch.empty(0, 2)
    boxes, sizes = (torch.cat(each) for each in zip(*parts, strict=True))
    chosen = torch.linspace(0, len(boxes) - 1, min(len(boxes), _MOST_BOXES)).round().long()
    boxes, sizes = boxes[chosen], sizes[chosen]
    scales = torch.cat(
        [scales_of(sizes, each, cfg.INPUT.MAX_SIZE_TRAIN) for each in cfg.INPUT.MIN_SIZE_TRAIN]
    )[:, None]
    times = len(cfg.INPUT.MIN_SIZE_TRAIN)
    return (boxes.repeat(times, 1) * scales).float(), (sizes.repeat(times, 1) * scales).float()


def _boxes_of(truth: GroundTruth) -> tuple[Tensor, Tensor]:
    sizes = truth.image_sizes[image_of_annotation(truth)]
    corner = truth.boxes_xywh[:, :2]
    boxes = torch.cat([corner, corner + truth.boxes_xywh[:, 2:]], dim=1)
    boxes = torch.minimum(boxes.clamp(min=0), sizes.flip(1).repeat(1, 2).double())
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    kept = has_area & truth.counting
    return boxes[kept], sizes[kept]


def _cure(cfg: Config, report: AnchorReport, boxes: Tensor, sizes: Tensor) -> str:
    def share_below_half(choice: Sequence[int]) -> float:
        generator = build_anchor_generator(replace(cfg, {report.key: tuple(choice)}))
        return float((best_overlaps(boxes, sizes, generator) < 0.5).double().mean())

    sides = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
    retinanet = cfg.MODEL.RETINANET
    largest = retinanet.OCTAVE ** (1 - 1 / retinanet.SCALES_PER_OCTAVE)
    factor = largest if cfg.MODEL.RETINANET_ON else 1.0
    found = better_sizes(share_below_half, sides, len(report.sizes), factor)
    section = report.key.rpartition(".")[0]
    if found is not None and found[1] < _WORTH_IT * report.fit.share_below_half:
        return f"Set {report.key} to {found[0]}: then it is {100 * found[1]:.0f} %."
    low, middle, high = report.fit.ratios
    return (
        f"Other sizes alone help little. The boxes are {low:.1f} to {high:.1f} times as high as "
        f"wide, the median {middle:.1f}: set {section}.ASPECT_RATIOS accordingly, or a finer "
        "stride, or larger images (INPUT.MIN_SIZE_TRAIN)."
    )

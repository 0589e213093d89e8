"""Pictures of what is in an image, and of what a detector says is in it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor
from torchvision.ops import box_iou

from detengine.report.captions import side_by_side, write_on_mask, write_tag
from detengine.report.colours import PALETTE, Colour, colours_of
from detengine.report.mask_columns import MaskColumns, columns_of
from detengine.report.skeleton import draw_skeleton
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.prediction import Prediction
from detengine.structures.rle import RLE

Masks = Tensor | Sequence[RLE]

_SHORT_SIDE, _LONG_SIDE = 480, 1600
_OVERSAMPLING = 2
"""Masks and boxes are drawn this much larger and reduced, which smooths their edges."""
_FILL_OPACITY, _LINE_OPACITY = 105, 245
_MOST_SCORES = 40


def draw_prediction(
    image: Tensor,
    boxes_xyxy: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    scores: Tensor | None = None,
    *,
    masks: Masks | None = None,
    keypoints: Tensor | None = None,
    skeleton: Sequence[tuple[int, int]] = (),
    colours: Sequence[int] | None = None,
    scale: float | None = None,
) -> Image.Image:
    """The image with its objects: translucent masks with outlines, or, without masks, boxes.

    image: uint8[3, H, W], RGB; shown scale times as large; None: with a shorter side of at least
    480 pixels, a longer one of at most 1600. boxes_xyxy: float[N, 4], pixels of the image.
    labels: int64[N], 1..K. masks: N masks of the whole image, uint8 or bool[N, H, W] or RLEs.
    keypoints: float[N, J, 3] as x, y, visibility, drawn where that is not 0, with a line for each
    pair of the skeleton.
    colours: each object's number in the palette; None gives each class its own, or each object,
    where there is one class. Names are written where there are several classes, scores where there
    are at most 40 objects.
    """
    height, width = image.shape[1:]
    if scale is None:
        scale = min(max(1.0, _SHORT_SIDE / min(height, width)), _LONG_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    picture = picture.resize(size, Image.Resampling.BICUBIC).convert("RGBA")
    numbers = colours_of(labels, class_names) if colours is None else colours
    shades = [PALETTE[number % len(PALETTE)] for number in numbers]
    # Small objects lie on top of large ones.
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    order = sides.prod(dim=1).argsort(descending=True).tolist()
    layer = Image.new("RGBA", (size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING))
    boxes = (boxes_xyxy * scale).tolist()
    for n in order:
        if masks is None:
            _draw_box(layer, boxes[n], shades[n])
        else:
            _draw_mask(layer, columns_of(masks[n]), shades[n], (height, width))
        if keypoints is not None:
            points = keypoints[n] * torch.tensor([scale * _OVERSAMPLING] * 2 + [1.0])
            draw_skeleton(layer, points.tolist(), skeleton, shades[n], _line_width(layer))
    picture.alpha_composite(layer.reduce(_OVERSAMPLING))
    texts = _texts(labels, class_names, scores)
    for n in order:
        if texts[n] and masks is None:
            write_tag(picture, texts[n], boxes[n], shades[n])
        elif texts[n]:
            write_on_mask(picture, texts[n], boxes[n])
    return picture.convert("RGB")


def truth_beside_prediction(
    image: Tensor,
    ground_truth: GroundTruth,
    index: int,
    prediction: Prediction,
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.5,
) -> Image.Image:
    """Two panels with their captions: what `draw_both` draws.

    image: uint8[3, H, W], RGB, as it is stored. Crowds, and classes that are not among class_names,
    are left out. With one class, a detection has the colour of the object that it lies on. Masks
    are drawn where truth and prediction both have them, or the prediction alone.
    """
    both = draw_both(
        image, ground_truth, index, prediction, class_names, score_threshold=score_threshold
    )
    counted = [f"{n} object{'s' * (n != 1)}" for n in (both.num_objects, both.num_found)]
    return side_by_side(
        [
            (both.truth, "truth", counted[0]),
            (both.prediction, "prediction", f"{counted[1]} from score {score_threshold:g}"),
        ]
    )


class BothDrawn(NamedTuple):
    """One image's truth and prediction, of one size, and how many objects are drawn in each."""

    truth: Image.Image
    prediction: Image.Image
    num_objects: int
    num_found: int


def draw_both(
    image: Tensor,
    ground_truth: GroundTruth,
    index: int,
    prediction: Prediction,
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.5,
) -> BothDrawn:
    """The index-th image's ground truth, and the detections from `score_threshold` up.

    image: uint8[3, H, W]. As `truth_beside_prediction`, without captions.
    """
    boxes_xyxy, labels, rles = _objects(ground_truth, index, class_names)
    colours = colours_of(labels, class_names)
    prediction = prediction.encoded()
    if prediction.rles is None:
        rles = None
    truth = draw_prediction(image, boxes_xyxy, labels, class_names, masks=rles, colours=colours)
    found = (prediction.scores >= score_threshold).nonzero()[:, 0]
    found_boxes = prediction.boxes_xyxy[found]
    found_labels = torch.ones_like(found) if prediction.labels is None else prediction.labels[found]
    found_colours = colours_of(found_labels, class_names)
    if len(class_names) == 1:
        found_colours = _colours_of_nearest(found_boxes, boxes_xyxy, colours)
    detections = draw_prediction(
        image,
        found_boxes,
        found_labels,
        class_names,
        prediction.scores[found],
        masks=None if prediction.rles is None else [prediction.rles[n] for n in found.tolist()],
        colours=found_colours,
    )
    return BothDrawn(truth, detections, len(labels), len(found))


def _objects(
    truth: GroundTruth, index: int, class_names: Sequence[str]
) -> tuple[Tensor, Tensor, list[RLE] | None]:
    """One image's boxes xyxy, labels and masks."""
    rows = truth.annotations_of(index)
    label_of_id = truth.categories.labels_of_ids(class_names)
    labels = [label_of_id.get(id_, 0) for id_ in truth.category_ids[rows].tolist()]
    crowds = truth.is_crowd[rows].tolist()
    shown = [n for n, label in enumerate(labels) if label and not crowds[n]]
    boxes = truth.boxes_xywh[rows][shown].float()
    boxes[:, 2:] += boxes[:, :2]
    rles: list[RLE] | None = None
    if truth.masks is not None:
        size = truth.image_sizes[index].tolist()
        rles = [{"size": size, "counts": truth.masks[rows.start + n]} for n in shown]
    return boxes, torch.tensor([labels[n] for n in shown], dtype=torch.int64), rles


def _colours_of_nearest(found: Tensor, boxes_xyxy: Tensor, colours: list[int]) -> list[int]:
    """For each box found the colour of the object that it overlaps most; a new one for none."""
    if not len(boxes_xyxy):
        return list(range(len(found)))
    overlaps, nearest = box_iou(found, boxes_xyxy).max(dim=1)
    return [
        colours[object_] if overlap > 0 else len(colours) + n
        for n, (overlap, object_) in enumerate(
            zip(overlaps.tolist(), nearest.tolist(), strict=True)
        )
    ]


def _texts(labels: Tensor, class_names: Sequence[str], scores: Tensor | None) -> list[str]:
    names = [class_names[label - 1] if len(class_names) > 1 else "" for label in labels.tolist()]
    if scores is None or len(scores) > _MOST_SCORES:
        return names
    return [
        f"{name} {score:.2f}".strip() for name, score in zip(names, scores.tolist(), strict=True)
    ]


def _draw_box(layer: Image.Image, box: list[float], colour: Colour) -> None:
    x1, y1, x2, y2 = (coordinate * _OVERSAMPLING for coordinate in box)
    x2, y2 = max(x1, x2), max(y1, y2)
    line = round(_line_width(layer) * _OVERSAMPLING)
    # Pillow refuses some boxes that have no room for their round corners.
    radius = 2 * line if min(x2 - x1, y2 - y1) > 4 * line + 2 else 0
    ImageDraw.Draw(layer).rounded_rectangle(
        (x1, y1, x2, y2), radius, outline=(*colour, _LINE_OPACITY), width=line
    )


def _draw_mask(
    layer: Image.Image, columns_of_mask: MaskColumns, colour: Colour, image_size: tuple[int, int]
) -> None:
    """Fill the mask translucently and outline it. image_size: (height, width)."""
    mask = columns_of_mask.inside
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return
    top, left = int(rows[0]), columns_of_mask.first + int(columns[0])
    # One pixel of nothing all around, so that the outline closes at the mask's edges too.
    own = mask[top : rows[-1] + 1, columns[0] : columns[-1] + 1]
    part = np.pad(own, 1).astype(np.uint8) * 255
    scale_x, scale_y = layer.width / image_size[1], layer.height / image_size[0]
    size = max(1, round(part.shape[1] * scale_x)), max(1, round(part.shape[0] * scale_y))
    # Blurred over a pixel of the image, which takes the stairs from the outline.
    smooth = Image.fromarray(part).resize(size, Image.Resampling.BILINEAR)
    inside = np.asarray(smooth.filter(ImageFilter.BoxBlur(scale_x / 2))) >= 128
    line = round(_line_width(layer) * _OVERSAMPLING)
    blurred = Image.fromarray(inside.astype(np.uint8) * 255).filter(ImageFilter.BoxBlur(line))
    core = np.asarray(blurred) == 255  # all that is around it is inside
    opacity = np.where(core, _FILL_OPACITY, np.where(inside, _LINE_OPACITY, 0))
    stamp = Image.new("RGBA", size, colour)
    stamp.putalpha(Image.fromarray(opacity.astype(np.uint8)))
    _stamp(layer, stamp, round((left - 1) * scale_x), round((top - 1) * scale_y))


def _stamp(layer: Image.Image, stamp: Image.Image, x: int, y: int) -> None:
    """Lay a picture over the layer, also where it reaches beyond its top or left edge."""
    inside = max(0, -x), max(0, -y)
    layer.alpha_composite(stamp, (max(0, x), max(0, y)), inside)


def _line_width(layer: Image.Image) -> float:
    return max(1.5, max(layer.size) / _OVERSAMPLING / 400)

"""What is annotated in an image: objects, and what is set aside, such as crowds, hatched."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from detengine.report.captions import write_tag
from detengine.report.colours import GREY
from detengine.report.draw import Masks, draw_prediction
from detengine.report.mask_columns import dense_mask

_FILL, _STRIPE = 90, 220
"""The opacity of what is set aside, between its stripes and on them."""
_LONGEST_NAME = 24
_STRIPES = 80
"""The picture's longer side, in stripes."""


@dataclass(frozen=True)
class Annotations:
    """N objects of an image. boxes_xyxy: float[N, 4]; labels: int64[N], 1..K.

    set_aside: why an object counts for nothing ("crowd"), or "" where it counts. masks: of all of
    them, empty ones where there is none. keypoints: float[N, J, 3].
    """

    boxes_xyxy: Tensor
    labels: Tensor
    set_aside: Sequence[str]
    masks: Masks | None = None
    keypoints: Tensor | None = None


def draw_annotations(
    image: Tensor,
    annotations: Annotations,
    class_names: Sequence[str],
    colours: Sequence[int],
    *,
    skeleton: Sequence[tuple[int, int]] = (),
) -> Image.Image:
    """The image with all that counts: boxes, masks, keypoints; the rest is hatched in grey.

    image: uint8[3, H, W], RGB, shown as large as `draw_prediction` does. colours: each object's
    number in the palette. With one class, names are left out, but for what is set aside; long
    ones are cut off.
    """
    class_names = [_shortened(name) for name in class_names]
    counts = [n for n, why in enumerate(annotations.set_aside) if not why]
    kept = torch.tensor(counts, dtype=torch.int64)
    boxes, labels = annotations.boxes_xyxy[kept], annotations.labels[kept]
    shades = [colours[n] for n in counts]
    masks = annotations.masks
    picture = draw_prediction(
        image,
        boxes,
        labels,
        [""] * len(class_names),
        masks=_no_masks(len(counts)) if masks is None else _masks_at(masks, counts),
        colours=shades,
    )
    scale = picture.width / image.shape[2]
    picture = _with_hatching(picture, annotations, scale)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    keypoints = annotations.keypoints
    picture = draw_prediction(
        pixels,
        boxes * scale,
        labels,
        class_names,
        keypoints=None
        if keypoints is None
        else keypoints[kept] * torch.tensor([scale, scale, 1.0]),
        skeleton=skeleton,
        colours=shades,
        scale=1.0,
    )
    _write_why(picture, annotations, class_names, scale)
    return picture


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _masks_at(masks: Masks, positions: Sequence[int]) -> Masks:
    if isinstance(masks, Tensor):
        return masks[torch.tensor(positions, dtype=torch.int64)]
    return [masks[n] for n in positions]


def _no_masks(number: int) -> Tensor:
    """Masks that show nothing, of no memory: boxes come later, over what is hatched."""
    return torch.zeros(1, 1, 1, dtype=torch.uint8).expand(number, 1, 1)


def _with_hatching(picture: Image.Image, annotations: Annotations, scale: float) -> Image.Image:
    """Grey stripes over each region that is set aside: its mask, or its box where it has none."""
    for n, why in enumerate(annotations.set_aside):
        if not why:
            continue
        region = _region(annotations, n, (picture.height, picture.width), scale)
        rows, columns = np.indices(region.shape)
        width = max(4, max(picture.size) // _STRIPES)
        on_stripe = (rows + columns) // (width // 2) % 2 == 0
        opacity = np.where(region, np.where(on_stripe, _STRIPE, _FILL), 0).astype(np.uint8)
        picture.paste(GREY, (0, 0), Image.fromarray(opacity))
    return picture


def _region(
    annotations: Annotations, n: int, size: tuple[int, int], scale: float
) -> NDArray[np.bool_]:
    """bool[H, W] of the picture: the n-th mask, or box. size: its (H, W)."""
    mask = None if annotations.masks is None else dense_mask(annotations.masks[n])
    if mask is not None and mask.any():
        whole = Image.fromarray(mask.astype(np.uint8) * 255)
        return np.asarray(whole.resize(size[::-1], Image.Resampling.NEAREST)) > 0
    region = np.zeros(size, dtype=np.bool_)
    x1, y1, x2, y2 = (annotations.boxes_xyxy[n] * scale).round().long().tolist()
    region[max(0, y1) : y2 + 1, max(0, x1) : x2 + 1] = True
    return region


def _write_why(
    picture: Image.Image, annotations: Annotations, class_names: Sequence[str], scale: float
) -> None:
    for n, why in enumerate(annotations.set_aside):
        if why:
            text = f"{class_names[int(annotations.labels[n]) - 1]} ({why})"
            write_tag(picture, text, (annotations.boxes_xyxy[n] * scale).tolist(), GREY)

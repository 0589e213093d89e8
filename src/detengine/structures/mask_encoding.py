"""Square mask probabilities straight to RLE, without pasting them into an image.

Bit-identical to torchvision's way, which interpolates each mask at its box's size, pastes it into
the image, compares and reads that: `mask_edges` finds where a mask begins and ends in each column,
and only where rounding could decide is the mask left to the kernel that torchvision calls.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detengine.structures.mask_edges import Edges, Positions, Window, edges_by_solving
from detengine.structures.rle import RLE, Runs, encode_many


def encode_mask_probs(
    mask_probs: Tensor, boxes_xyxy: Tensor, size: tuple[int, int], threshold: float = 0.5
) -> list[RLE]:
    """Encode each box's square mask as the RLE of the full image.

    mask_probs: float[N, M, M] in [0, 1]. boxes_xyxy: float[N, 4], absolute pixels.
    size: (height, width). N may be 0. Inverted boxes and those off the image give empty masks.
    Bit-identical to pasting into a full image (torchvision's roi_heads), `> threshold` and
    encoding, but never leaves the box. Raises ValueError if the two N differ or a box is not
    finite.
    """
    boxes_xyxy = boxes_xyxy.float()
    if mask_probs.ndim != 3 or boxes_xyxy.shape != (len(mask_probs), 4):
        raise ValueError(
            "expected mask_probs[N, M, M] and boxes_xyxy[N, 4], "
            f"but got {list(mask_probs.shape)} and {list(boxes_xyxy.shape)}"
        )
    if not bool(boxes_xyxy.isfinite().all()):
        raise ValueError("a box with a coordinate that is NaN or infinite can hold no mask")
    # One pixel of zeros around each mask, and the box grown alike: its edge is interpolated too.
    padded = F.pad(mask_probs.float(), (1, 1, 1, 1))
    boxes = _expand(boxes_xyxy, padded.shape[-1] / mask_probs.shape[-1]).long().tolist()
    windows = list(_visible(boxes, size))
    edges, unsure = edges_by_solving(padded.numpy(), windows, size, threshold)
    if len(unsure):
        edges = _with_exact(edges, unsure, padded, windows, size=size, threshold=threshold)
    counts, offsets = _runs_between(_without_pairs(edges), len(padded), size)
    return [{"size": list(size), "counts": string} for string in encode_many(counts, offsets)]


def _expand(boxes_xyxy: Tensor, scale: float) -> Tensor:
    """The boxes, float[N, 4], grown about their centres: in torchvision's order of operations."""
    low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    half = (high - low) * 0.5 * scale
    centre = (high + low) * 0.5
    return torch.cat([centre - half, centre + half], dim=1)


def _visible(boxes: list[list[int]], size: tuple[int, int]) -> Iterator[Window]:
    """What is seen of the boxes, inclusive xyxy, of which anything is seen."""
    for mask, (x1, y1, x2, y2) in enumerate(boxes):
        left, right = max(x1, 0), min(x2 + 1, size[1])
        top, bottom = max(y1, 0), min(y2 + 1, size[0])
        if left < right and top < bottom:
            yield Window(mask, x1, y1, x2 + 1 - x1, y2 + 1 - y1, left, right, top, bottom)


def _span(size: tuple[int, int]) -> int:
    """How many positions of edges a mask has: its pixels, and the end behind them."""
    return size[0] * size[1] + 1


def _with_exact(
    edges: Edges,
    unsure: Positions,
    padded: Tensor,
    windows: Sequence[Window],
    *,
    size: tuple[int, int],
    threshold: float,
) -> Edges:
    """The edges, those of the unsure masks replaced by the kernel's."""
    window_of = {window.mask: window for window in windows}
    parts, begin = [], 0
    bounds = np.searchsorted(edges, [unsure * _span(size), (unsure + 1) * _span(size)])
    for mask, start, stop in zip(unsure.tolist(), *bounds.tolist(), strict=True):
        exact = _edges_by_kernel(padded, window_of[mask], size, threshold)
        parts += [edges[begin:start], exact]
        begin = stop
    return np.concatenate([*parts, edges[begin:]])


def _edges_by_kernel(
    padded: Tensor, window: Window, size: tuple[int, int], threshold: float
) -> Edges:
    """One mask's edges as `edges_by_solving` gives them, but interpolated at the box's full size.

    By the very kernel that torchvision calls: any other order of its operations would round
    differently.
    """
    mask, x, y, width, height, left, right, top, bottom = window
    pasted = F.interpolate(
        padded[mask, None, None], size=(height, width), mode="bilinear", align_corners=False
    )[0, 0].numpy()
    visible = pasted[top - y : bottom - y, left - x : right - x]
    # Compared row with row, which needs no transposing: the few edges are sorted into columns.
    inside = np.zeros((bottom - top + 2, right - left), dtype=np.bool_)
    np.greater(visible, threshold, out=inside[1:-1])
    row, column = np.divmod(np.flatnonzero(inside[1:] != inside[:-1]), right - left)
    return mask * _span(size) + np.sort((column + left) * size[0] + (row + top))


def _without_pairs(edges: Edges) -> Edges:
    """Without equal ones, two by two: where columns touch, and what changes between two pixels."""
    same = edges[1:] == edges[:-1]
    if not same.any():
        return edges
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    odd: Edges = edges[starts[np.diff(starts, append=len(edges)) % 2 == 1]]
    return odd


def _runs_between(edges: Edges, number: int, size: tuple[int, int]) -> tuple[Runs, Runs]:
    """The runs of all masks in one array, int64[R], and where each mask's begin, int64[N + 1]."""
    masks = np.arange(number + 1)
    firsts = masks * _span(size)
    offsets = np.searchsorted(edges, firsts)
    # A mask ends at its end, whether there is an edge or not.
    ends = np.searchsorted(edges, firsts[1:] - 1)
    is_edge = ends < offsets[1:]
    edges = np.delete(edges, ends[is_edge])
    offsets[1:] -= np.cumsum(is_edge)
    owner = np.repeat(masks[:-1], np.diff(offsets))
    framed = np.empty(len(edges) + len(masks), np.int64)
    framed[np.arange(len(edges)) + owner + 1] = edges - owner
    offsets += masks
    framed[offsets] = firsts - masks
    return np.diff(framed), offsets

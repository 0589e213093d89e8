# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
# ruff: noqa: N803 - a kernel's constants are written as constants
"""The gradient of RoIAlign on CUDA with the same bits each time: gathered, not scattered.

RoIAlign is linear and separable: a bin is the sum over rows and columns of the features, each
weighted by how near they are to the bin's samples. So every tile of the features can look for the
regions that touch it, in their order, and add up what comes back from them. Nothing is added by two
programs, so that there is no order to be lost, and no read-modify-write.
"""

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from detengine.modeling.roi_align import Sampling

_TILE = 8
"""Pixels of a side of a program's tile."""
_CHANNELS = 128
"""Of one program, at most."""


def gather_gradient(
    gradient: Tensor, rois: Tensor, shape: tuple[int, int, int, int], sampling: "Sampling"
) -> Tensor:
    """float[N, C, H, W], channels last, of gradient float[R, C, S, S] and rois float[R, 5].

    shape: (N, C, H, W). Nothing is read from the device.
    """
    images, channels, height, width = shape
    found = gradient.new_empty(images, height, width, channels)
    order = rois[:, 0].argsort(stable=True)
    of_image = torch.arange(images + 1, device=rois.device, dtype=rois.dtype)
    starts = torch.searchsorted(rois[order, 0], of_image)
    block = min(_CHANNELS, triton.next_power_of_2(channels))
    tiles_across = triton.cdiv(width, _TILE)
    tiles = triton.cdiv(height, _TILE) * tiles_across
    _gather[(tiles, images, triton.cdiv(channels, block))](
        gradient.permute(0, 2, 3, 1).contiguous(),
        rois.contiguous(),
        order,
        starts,
        found,
        height,
        width,
        channels,
        tiles_across,
        sampling.spatial_scale,
        sampling.output_size,
        sampling.sampling_ratio,
        sampling.aligned,
        _TILE,
        block,
        enable_fp_fusion=True,  # as ever: triton 3.9 warns that it will decide otherwise
    )
    return found.permute(0, 3, 1, 2)


@triton.jit
def _gather(
    gradient,  # [R, BINS, BINS, C]
    rois,  # [R, 5]
    order,  # [R], image by image
    starts,  # [N + 1], of each image in `order`
    found,  # [N, H, W, C]
    height,
    width,
    channels,
    tiles_across,
    scale,
    BINS: tl.constexpr,
    RATIO: tl.constexpr,
    ALIGNED: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    top = tl.program_id(0) // tiles_across * TILE
    left = tl.program_id(0) % tiles_across * TILE
    image = tl.program_id(1)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    rows = top + tl.arange(0, TILE)
    columns = left + tl.arange(0, TILE)
    total = tl.full((TILE * TILE, BLOCK), 0.0, found.dtype.element_ty)
    for place in range(tl.load(starts + image), tl.load(starts + image + 1)):
        region = tl.load(order + place)
        y, bin_height, down = _along(rois + region * 5 + 2, scale, BINS, RATIO, ALIGNED)
        x, bin_width, across = _along(rois + region * 5 + 1, scale, BINS, RATIO, ALIGNED)
        first_row, last_row = _bins_near(top, TILE, y, bin_height, BINS)
        first_column, last_column = _bins_near(left, TILE, x, bin_width, BINS)
        of_region = gradient + region * BINS * BINS * channels
        share = 1.0 / tl.maximum(down * across, 1)
        for i in range(first_row, last_row):
            row_weight = _weight(rows, y + i * bin_height, bin_height, down, height) * share
            for j in range(first_column, last_column):
                weight = _weight(columns, x + j * bin_width, bin_width, across, width)
                weight = tl.reshape(row_weight[:, None] * weight[None, :], (TILE * TILE,))
                of_bin = of_region + (i * BINS + j) * channels + channel
                value = tl.load(of_bin, mask=channel < channels, other=0.0)
                total += weight[:, None] * value[None, :]
    pixel = tl.reshape(rows[:, None] * width + columns[None, :], (TILE * TILE,))
    is_inside = (rows[:, None] < height) & (columns[None, :] < width)
    is_inside = tl.reshape(is_inside, (TILE * TILE,))
    whole = image.to(tl.int64) * height * width * channels
    target = found + whole + pixel.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(target, total, mask=is_inside[:, None] & (channel[None, :] < channels))


@triton.jit
def _along(corner, scale, BINS: tl.constexpr, RATIO: tl.constexpr, ALIGNED: tl.constexpr):
    """Of one axis the region's start, the side of a bin, in features, and a bin's samples."""
    start = tl.load(corner) * scale
    end = tl.load(corner + 2) * scale
    if ALIGNED:
        start -= 0.5
        end -= 0.5
    extent = end - start
    if not ALIGNED:
        extent = tl.maximum(extent, 1.0)
    samples = tl.ceil(extent / BINS).to(tl.int32)
    if RATIO > 0:
        samples = tl.full((), RATIO, tl.int32)
    return start, extent / BINS, samples


@triton.jit
def _bins_near(first, TILE: tl.constexpr, start, side, BINS: tl.constexpr):
    """Which bins, from and up to, may have samples within a pixel of the tile; a hair more."""
    safe = tl.maximum(side, 1e-6)
    low = tl.floor((first - 1.01 - start) / safe)
    high = tl.floor((first + TILE + 0.01 - start) / safe) + 1
    low = tl.minimum(tl.maximum(low, 0.0), BINS)
    high = tl.minimum(tl.maximum(high, 0.0), BINS)
    is_proper = side > 1e-6
    low = tl.where(is_proper, low, 0.0)
    high = tl.where(is_proper, high, BINS)
    return low.to(tl.int32), high.to(tl.int32)


@triton.jit
def _weight(pixels, start, side, samples, length):
    """How much the pixels of a row or column count in one bin: the sum over its samples."""
    weight = pixels * 0.0 + start * 0.0
    for sample in range(samples):
        place = start + (sample + 0.5) * side / samples
        is_sampled = (place >= -1.0) & (place <= length)
        inside = tl.minimum(tl.maximum(place, 0.0), length - 1.0)
        weight += tl.where(is_sampled, tl.maximum(1.0 - tl.abs(inside - pixels), 0.0), 0.0)
    return weight

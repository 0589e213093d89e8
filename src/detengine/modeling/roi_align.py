"""RoIAlign by torchvision's forward, with backwards of our own where torchvision's are slow.

On a CPU torchvision's backward runs on one thread; here its channels are divided among all, with
the same bits. On CUDA it adds with atomics, in an order that changes from run to run; where torch
is told to be deterministic, a gathering kernel takes its place (`roi_align_triton`).
"""

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_PARTS_PER_THREAD = 2
"""Smaller parts fit better into the caches: 0.28 s in 2 parts, 0.25 s in 4, of 0.62 s in one."""


_WORTH_THREADS = 2**18
"""Values of a gradient; below, to start the threads would take as long as they save."""


class Sampling(NamedTuple):
    """How RoIAlign samples: output_size, in bins; the rest as in torchvision's."""

    output_size: int
    spatial_scale: float
    sampling_ratio: int
    aligned: bool


def roi_align(features: Tensor, rois: Tensor, sampling: Sampling) -> Tensor:
    """float[R, C, S, S] of float[N, C, H, W] and float[R, 5], the image's index and xyxy.

    torchvision's roi_align, to the bit; so is its gradient on a CPU.
    """
    pooled: Tensor
    backward = _backward_for(features) if torch.is_grad_enabled() else None
    if backward is not None and features.requires_grad:
        pooled = _RoIAlign.apply(features, rois, sampling, backward)
    else:
        pooled = _forward(features, rois, sampling)
    return pooled


def _backward_for(features: Tensor) -> Any:
    """The backward to use instead of torchvision's, if any."""
    if features.device.type == "cpu":
        return backward_in_parts
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    if features.device.type == "cuda" and is_deterministic and find_spec("triton"):
        from detengine.modeling.roi_align_triton import gather_gradient

        return gather_gradient
    return None


def _forward(features: Tensor, rois: Tensor, sampling: Sampling) -> Tensor:
    side, scale, ratio, aligned = sampling
    pooled: Tensor = torch.ops.torchvision.roi_align(
        features, rois, scale, side, side, ratio, aligned
    )
    return pooled


class _RoIAlign(torch.autograd.Function):
    """backward: (gradient float[R, C, S, S], rois, shape of the features, sampling) -> float[N, C,
    H, W]."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, rois: Tensor, sampling: Sampling, backward: Any) -> Any:
        ctx.save_for_backward(rois)
        ctx.shape, ctx.sampling, ctx.of_features = features.shape, sampling, backward
        return _forward(features, rois, sampling)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (rois,) = ctx.saved_tensors
        return ctx.of_features(gradient, rois, ctx.shape, ctx.sampling), None, None, None


def backward_in_parts(
    gradient: Tensor, rois: Tensor, shape: tuple[int, int, int, int], sampling: Sampling
) -> Tensor:
    """torchvision's, which goes through the regions in order, channels beside each other.

    So no sum knows of another channel, and parts of them give the bits of the whole.
    """
    images, channels, height, width = shape
    side, scale, ratio, aligned = sampling
    threads = torch.get_num_threads()

    def of_part(part: Tensor) -> Tensor:
        found: Tensor = torch.ops.torchvision._roi_align_backward(
            part, rois, scale, side, side, images, part.shape[1], height, width, ratio, aligned
        )
        return found

    if threads == 1 or gradient.numel() < _WORTH_THREADS:
        return of_part(gradient)
    # Made for this call: threads that stay would be missing in a process that is forked later.
    gradients = gradient.tensor_split(min(threads * _PARTS_PER_THREAD, channels), dim=1)
    with ThreadPoolExecutor(threads, "roi_align") as pool:
        return torch.cat(list(pool.map(of_part, gradients)), dim=1)

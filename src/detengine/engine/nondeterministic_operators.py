"""Which operators add in an order of their own on CUDA, so that their last bits change.

From torch's documentation of `torch.use_deterministic_algorithms` (2.14; its second list, of what
then raises an error) and from the kernels of torchvision 0.29 that call atomicAdd. The names are
those that the dispatcher sees.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor


class Entry(NamedTuple):
    """instead: what has the same bits each time. when: of which arguments; None: of any."""

    instead: str
    when: Callable[..., bool] | None = None


def _has_weights(_counted: Tensor, weights: Tensor | None = None, *_: Any, **__: Any) -> bool:
    return weights is not None


def _is_floating(values: Tensor, *_: Any, **__: Any) -> bool:
    return values.is_floating_point()


def _is_product(*args: Any, **_: Any) -> bool:
    return "prod" in args


def _is_mean(_losses: Tensor, _target: Tensor, _weight: Any, reduction: int, *_: Any) -> bool:
    return reduction != 0


_INTERPOLATE = "interpolate with mode nearest or bilinear, without antialias"
_GRID = "interpolate, or grid_sample of what needs no gradient"
_POOL = "avg_pool2d or max_pool2d with a kernel_size, or a global mean"
_PAD = "pad with mode replicate or constant"
_SCATTER = "index_put or scatter_add"

ON_CUDA: Mapping[str, Entry] = {
    "aten::_adaptive_avg_pool2d_backward": Entry(_POOL),
    "aten::_adaptive_avg_pool3d_backward": Entry(_POOL),
    "aten::_ctc_loss_backward": Entry("another loss"),
    "aten::_upsample_bicubic2d_aa_backward": Entry(_INTERPOLATE),
    "aten::_upsample_bilinear2d_aa_backward": Entry(_INTERPOLATE),
    "aten::adaptive_max_pool2d_backward": Entry(_POOL),
    "aten::adaptive_max_pool3d_backward": Entry(_POOL),
    "aten::avg_pool3d_backward": Entry("a conv3d with equal weights"),
    "aten::bincount": Entry("scatter_add of the weights", _has_weights),
    "aten::fractional_max_pool2d_backward": Entry(_POOL),
    "aten::fractional_max_pool3d_backward": Entry(_POOL),
    "aten::grid_sampler_2d_backward": Entry(_GRID),
    "aten::grid_sampler_3d_backward": Entry(_GRID),
    "aten::histc": Entry("searchsorted and a bincount without weights", _is_floating),
    "aten::max_unpool2d": Entry(_SCATTER),
    "aten::max_unpool3d": Entry(_SCATTER),
    "aten::median.dim": Entry("sort, and its middle element"),
    "aten::nanmedian.dim": Entry("sort, and its middle element"),
    "aten::nll_loss2d_forward": Entry("the loss with reduction none, and its mean", _is_mean),
    "aten::put": Entry("index_put"),
    "aten::put_": Entry("index_put_"),
    "aten::reflection_pad1d_backward": Entry(_PAD),
    "aten::reflection_pad2d_backward": Entry(_PAD),
    "aten::reflection_pad3d_backward": Entry(_PAD),
    "aten::scatter_reduce.two": Entry("the exponential of a sum of logarithms", _is_product),
    "aten::scatter_reduce_.two": Entry("the exponential of a sum of logarithms", _is_product),
    "aten::upsample_bicubic2d_backward": Entry(_INTERPOLATE),
    "aten::upsample_linear1d_backward": Entry(_INTERPOLATE),
    "torchvision::_deform_conv2d_backward": Entry("a convolution that is not deformable"),
    "torchvision::_ps_roi_align_backward": Entry("roi_align"),
    "torchvision::_ps_roi_pool_backward": Entry("roi_align"),
    "torchvision::_roi_pool_backward": Entry("roi_align"),
}
"""Not there is what torch and torchvision replace by themselves where they are told to be
deterministic, and only if it is called by its Python function: interpolate's bilinear and trilinear
modes, pad's replicate, max_pool3d, roi_align."""

KNOWN = ("aten", "prims", "prim", "profiler", "torchvision", "c10d", "detengine")
"""Namespaces whose operators torch refuses, or this file names, if they are not deterministic."""

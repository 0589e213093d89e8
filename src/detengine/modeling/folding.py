"""Frozen batch norm as part of the convolution before it.

By itself it passes twice over the convolution's output, to multiply and to add; and as its
numbers are float32, what comes out under autocast is float32 too, twice as large, to be rounded
again by the next convolution. In the weights, trained ones included, it costs nothing of all this.
"""

from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from detengine.modeling.resnet import ResNet

_IN_ORDER = (BasicBlock, Bottleneck, ResNet, nn.Sequential)
"""Modules where a norm that is registered behind a convolution is called behind it."""


class FoldingConvolution(nn.Conv2d):
    """A convolution without bias that does its frozen norm's work. Its parameters stay its own."""

    norm: Any  # in a tuple, so that it is not registered a second time under another name

    def forward(self, input: Tensor) -> Tensor:
        (norm,) = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        weight = self.weight * scale[:, None, None, None]
        output: Tensor = self._conv_forward(input, weight, shift)
        return output


class FoldedNorm(FrozenBatchNorm2d):  # type: ignore[misc]  # torchvision has no types
    """Holds the numbers; the work is done by the convolution before it."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def fold_frozen_norms(model: nn.Module) -> int:
    """Fold, in place, each frozen norm of a ResNet or a pyramid; how many were.

    Names, parameters and buffers stay what they were, so that weights load and are saved as ever. A
    norm behind another layer than a plain convolution stays as it is.
    """
    folded = 0
    for parent in model.modules():
        children = list(parent.children()) if isinstance(parent, _IN_ORDER) else []
        for layer, norm in pairwise(children):
            if type(layer) is nn.Conv2d and type(norm) is FrozenBatchNorm2d and layer.bias is None:
                layer.__class__, norm.__class__ = FoldingConvolution, FoldedNorm
                layer.__dict__["norm"] = (norm,)
                folded += 1
    return folded

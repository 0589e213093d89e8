"""A model whose weights and features lie channels last in memory.

One gradient there is not safe on a CPU, that of a 1 x 1 convolution's weights under a stride. For
it, oneDNN copies the pixels that are read into memory of as many channels as they have, but takes
as many steps in it as a vector has channels (16 with AVX-512, 8 with AVX2): with fewer, past its
end. The gradient is wrong, or the process hangs or dies of a signal. It is an open fault,
https://github.com/uxlfoundation/oneDNN/issues/6035; seen in bfloat16 and float32 with torch 2.6.0,
2.14.1 and 2.15.0 (oneDNN 3.5.3, 3.12.0 and 3.13.3).
"""

from typing import Any

import torch
from torch import Tensor, nn

_VECTOR = 16
"""Channels from which on no step leaves the memory, on any processor."""


def put_channels_last(model: nn.Module) -> None:
    """In place: convolutions follow their weights' layout, and put out what they read.

    Those that oneDNN's fault can meet get a hook; names, parameters and buffers stay.
    """
    model.to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _is_in_danger(module):
            module.register_forward_pre_hook(_without_unread)


def _is_in_danger(layer: nn.Conv2d) -> bool:
    if layer.kernel_size != (1, 1) or max(layer.stride) == 1:
        return False
    return layer.padding in ((0, 0), "valid") and layer.in_channels < _VECTOR


def _without_unread(layer: nn.Conv2d, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Without the rows behind the last one that is read, where the weights get a gradient on a CPU.

    Or without such columns, where the stride is theirs alone. oneDNN takes the faulty way only if
    height and width are the output's times the stride; what comes out does not change.
    """
    features: Tensor = inputs[0]
    weight, stride = layer.weight, layer.stride
    if not (features.is_cpu and torch.is_grad_enabled() and weight.requires_grad):
        return inputs
    dim = -2 if stride[0] > 1 else -1
    read = (features.shape[dim] - 1) // stride[dim] * stride[dim] + 1
    return features.narrow(dim, 0, read), *inputs[1:]

"""usage: python strided_program.py. Gradients of strided 1 x 1 convolutions, channels last."""

from itertools import product

import torch
from torch import Tensor, nn

from detengine.modeling.channels_last import put_channels_last

TIMES = 4
"""Memory that was overwritten is not always noticed the first time."""


def results(layer: nn.Conv2d, features: Tensor) -> list[Tensor]:
    features = features.detach().requires_grad_()
    output = layer(features)
    output.backward(torch.linspace(-1, 1, output.numel()).view_as(output).to(output.dtype))
    found = [output.detach(), features.grad, layer.weight.grad]
    layer.weight.grad = None
    return [each.double() for each in found]


def check(channels: int, images: int, stride: tuple[int, int], dtype: torch.dtype) -> None:
    layer = nn.Conv2d(channels, 16, 1, stride, bias=False).to(dtype)
    features = torch.randn(images, channels, 72, 56, dtype=dtype)
    plain = nn.Conv2d(channels, 16, 1, stride, bias=False).double()
    plain.load_state_dict(layer.state_dict())
    expected = results(plain, features.double())
    put_channels_last(layer)
    for _ in range(TIMES):
        found = results(layer, features.to(memory_format=torch.channels_last))
        for one, other in zip(found, expected, strict=True):
            tolerance = (0.02 if dtype is torch.bfloat16 else 1e-5) * float(other.abs().max())
            torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(2)
    strides = ((2, 2), (3, 3), (2, 1), (1, 2))
    for arguments in product((8, 12), (1, 2), strides, (torch.bfloat16, torch.float32)):
        check(*arguments)

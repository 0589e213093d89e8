"""The blocks of the FBNet family.

Sources: FBNet (arXiv 1812.03443), MobileNetV2's inverted residuals (1801.04381), ShuffleNet's
shuffle (1707.01083), Shift (1711.08141), squeeze and excitation (1709.01507). Parameter names,
widths and initialisation are those of the predecessor's fbnet_builder.py.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detengine.modeling.norms import NormLayer


class Primitive(NamedTuple):
    """What kind of block a name stands for.

    expansion: the inner width by the input's; None: the block says. depthwise: how many depthwise
    convolutions follow each other. groups: of the pointwise ones; above 1 the channels are
    shuffled between them.
    """

    kind: Literal["inverted_residual", "skip", "basic_block", "shift"] = "inverted_residual"
    kernel: int = 3
    expansion: float | None = None
    depthwise: int = 1
    groups: int = 1
    squeeze_excite: bool = False


def _primitives() -> dict[str, Primitive]:
    """All names of the predecessor's table; a trailing _se is squeeze and excitation."""
    plain = {f"ir_k{k}_e{e}": Primitive(kernel=k, expansion=e) for k in (3, 5) for e in (1, 3, 6)}
    shuffled = {
        f"ir_k{kernel}_s{groups}": Primitive(kernel=kernel, expansion=expansion, groups=groups)
        for kernel in (3, 5)
        for groups, expansion in ((2, 1), (4, 4))
    }
    with_se = {
        f"{name}_se": primitive._replace(squeeze_excite=True)
        for name, primitive in (plain | shuffled).items()
    }
    wide = {f"ir_k7_e{e}": Primitive(kernel=7, expansion=e) for e in (1, 3, 6)}
    twice = {
        f"{name}_e{e}": Primitive(kernel=kernel, expansion=e, depthwise=2)
        for name, kernel in (("ir_k33", 3), ("ir_k7_sep", 7))
        for e in (1, 3, 6)
    }
    return {
        "skip": Primitive("skip"),
        "basic_block": Primitive("basic_block"),
        "shift_5x5": Primitive("shift", kernel=5),
        "shuffle": Primitive(groups=4),
        **{f"ir_k{k}": Primitive(kernel=k) for k in (1, 3, 5, 7)},
        **{f"ir_k{k}_sep": Primitive(kernel=k, depthwise=2) for k in (3, 7)},
        **plain,
        **shuffled,
        **with_se,
        **wide,
        **twice,
    }


PRIMITIVES = _primitives()

MOST_CHANNELS = 2**16
"""Of a layer; more are a slip of the finger."""


@dataclass(frozen=True)
class Style:
    """What all blocks of a net share.

    width_ratio: the factor of all widths. width_divisor: all widths are multiples of it.
    depthwise_norm, depthwise_relu: whether they follow the (last) depthwise convolution.
    """

    norm_layer: NormLayer
    width_ratio: float = 1.0
    width_divisor: int = 1
    depthwise_norm: bool = False
    depthwise_relu: bool = False

    def width(self, channels: int) -> int:
        """The scaled and rounded width of a layer. Raises ValueError for none or too many."""
        if int(channels * self.width_ratio) == 0:
            raise ValueError(
                f"MODEL.FBNET.SCALE_FACTOR: {self.width_ratio} leaves no channel of a layer that "
                f"has {channels}; give at least {1 / channels:.3g}"
            )
        width = rounded_width(int(channels * self.width_ratio), self.width_divisor)
        if width > MOST_CHANNELS:
            raise ValueError(
                f"MODEL.FBNET: SCALE_FACTOR {self.width_ratio} and WIDTH_DIVISOR "
                f"{self.width_divisor} make {width:,} channels of {channels} in a layer; choose "
                f"them so that no layer has more than {MOST_CHANNELS:,}"
            )
        return width


def rounded_width(width: float, divisor: int) -> int:
    """The nearest multiple of the divisor, upwards from the middle.

    A width that would become 0 becomes the divisor's square: the predecessor's rule, on which the
    shapes of its weights rest.
    """
    if width % divisor == 0:
        return int(width)
    return (math.floor(width / divisor + 0.5) or divisor) * divisor


def conv_norm_relu(
    in_channels: int,
    out_channels: int,
    kernel: int,
    norm_layer: NormLayer | None,
    *,
    stride: int = 1,
    groups: int = 1,
    relu: bool = True,
) -> nn.Sequential:
    """A convolution without bias that keeps the size at stride 1, and what follows it."""
    conv = nn.Conv2d(
        in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    layers = OrderedDict[str, nn.Module](conv=conv)
    if norm_layer is not None:
        layers["bn"] = norm_layer(out_channels)
    if relu:
        layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def make_skip(
    in_channels: int, out_channels: int, stride: int, norm_layer: NormLayer
) -> nn.Sequential:
    """The identity, or a pointwise convolution where the shape changes."""
    if (in_channels, stride) == (out_channels, 1):
        return nn.Sequential()
    conv = conv_norm_relu(in_channels, out_channels, 1, norm_layer, stride=stride)
    return nn.Sequential(OrderedDict(conv=conv))


def make_basic_block(
    in_channels: int, out_channels: int, stride: int, norm_layer: NormLayer
) -> nn.Sequential:
    """Two 3 x 3 convolutions."""
    layers = [
        nn.Conv2d(in_channels, in_channels, 3, stride, 1, bias=False),
        norm_layer(in_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False),
        norm_layer(out_channels),
    ]
    adds_input = (in_channels, stride) == (out_channels, 1)
    return Residual(*layers) if adds_input else nn.Sequential(*layers)


def make_shift_block(
    in_channels: int, inner: int, out_channels: int, *, stride: int, norm_layer: NormLayer
) -> nn.Sequential:
    """Two pointwise convolutions around a shift within 5 x 5 pixels."""
    layers = [
        nn.Conv2d(in_channels, inner, 1, bias=False),
        norm_layer(inner),
        nn.ReLU(inplace=True),
        Shift(inner, 5, stride),
        nn.Conv2d(inner, out_channels, 1, bias=False),
        norm_layer(out_channels),
    ]
    adds_input = (in_channels, stride) == (out_channels, 1)
    return Residual(*layers) if adds_input else nn.Sequential(*layers)


class Residual(nn.Sequential):
    """Layers whose input is added to their output."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)  # type: ignore[no-untyped-call,no-any-return]


class Shift(nn.Module):
    """Moves each channel to one of the kernel's places; the channels left over stay in the middle.

    The kernel, float[C, 1, k, k], is a buffer: it is stored and not trained.
    """

    kernel: Tensor

    def __init__(self, channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.stride, self.padding = stride, kernel_size // 2
        places = kernel_size**2
        counts = [channels // places] * places
        counts[places // 2] += channels % places
        place = torch.tensor([i for i, count in enumerate(counts) for _ in range(count)])
        one_hot = torch.eye(places)[place]
        self.register_buffer("kernel", one_hot.view(channels, 1, kernel_size, kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, None, self.stride, self.padding, groups=x.shape[1])


class InvertedResidual(nn.Module):
    """Widens by a pointwise convolution, filters each channel for itself, and narrows again.

    inner: the channels in between. The input is added where stride and channels keep its shape,
    and squeeze and excitation follow.
    """

    def __init__(
        self,
        in_channels: int,
        inner: int,
        out_channels: int,
        *,
        stride: int,
        primitive: Primitive,
        style: Style,
    ) -> None:
        super().__init__()
        groups, norm_layer = primitive.groups, style.norm_layer
        self.adds_input = (in_channels, stride) == (out_channels, 1)
        self.pw = conv_norm_relu(in_channels, inner, 1, norm_layer, groups=groups)
        self.shuffle = Shuffle(groups) if groups > 1 else nn.Identity()
        self.upscale = nn.Upsample(scale_factor=-stride) if stride < 0 else nn.Identity()
        self.dw = _make_depthwise(inner, max(stride, 1), primitive, style)
        self.pwl = conv_norm_relu(inner, out_channels, 1, norm_layer, groups=groups, relu=False)
        self.se4 = SqueezeExcite(out_channels) if primitive.squeeze_excite else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pwl(self.dw(self.upscale(self.shuffle(self.pw(x)))))
        if self.adds_input:
            y = y + x
        scaled: Tensor = self.se4(y)
        return scaled


def _make_depthwise(
    channels: int, stride: int, primitive: Primitive, style: Style
) -> nn.Sequential:
    """The depthwise convolution, or dw1 and dw2; nothing where the kernel is 1."""
    kernel = primitive.kernel
    if kernel == 1:
        return nn.Sequential()
    last = conv_norm_relu(
        channels,
        channels,
        kernel,
        style.norm_layer if style.depthwise_norm else None,
        stride=stride if primitive.depthwise == 1 else 1,
        groups=channels,
        relu=style.depthwise_relu,
    )
    if primitive.depthwise == 1:
        return last
    first = conv_norm_relu(
        channels, channels, kernel, style.norm_layer, stride=stride, groups=channels
    )
    return nn.Sequential(OrderedDict(dw1=first, dw2=last))


class Shuffle(nn.Module):
    """Deals the channels of each group out over all groups, so that the groups mix."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, channels, *size = x.shape
        grouped = x.reshape(n, self.groups, channels // self.groups, *size)
        return grouped.transpose(1, 2).reshape(x.shape)


class SqueezeExcite(nn.Module):
    """Scales each channel by a factor in (0, 1) that is computed from all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(channels // 4, 8)
        self.op = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = x * self.op(x)
        return scaled

"""ResNets and ResNeXts of any width, from torchvision's blocks and with its parameter names."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from detengine.modeling.deformable import DeformableConvolution, Deformation, Initialisation
from detengine.modeling.norms import NormLayer


class ResNetDepth(NamedTuple):
    """What tells one ResNet from another: its block, and how many stand in each stage."""

    block: type[BasicBlock] | type[Bottleneck]
    blocks: tuple[int, int, int, int]

    @property
    def has_bottlenecks(self) -> bool:
        return self.block is Bottleneck


RESNET_DEPTHS = {
    18: ResNetDepth(BasicBlock, (2, 2, 2, 2)),
    34: ResNetDepth(BasicBlock, (3, 4, 6, 3)),
    50: ResNetDepth(Bottleneck, (3, 4, 6, 3)),
    101: ResNetDepth(Bottleneck, (3, 4, 23, 3)),
    152: ResNetDepth(Bottleneck, (3, 8, 36, 3)),
}

STAGE_STRIDES = (4, 8, 16, 32)
"""The strides of layer1 (C2) to layer4 (C5)."""

_DEFORMABLE_V1 = Deformation()


@dataclass(frozen=True)
class ResNetPlan:
    """Everything about a ResNet but how many of its stages are built.

    stem_channels: of the first convolution. res2_planes: torchvision's `planes` of the first stage,
    64 in the standard nets; the stage puts out this many channels (four times as many with
    bottlenecks), each further stage twice as many. groups, width_per_group: of the bottleneck's
    3 x 3 convolution in the first stage. stride_in_1x1: a bottleneck's stride is in its first 1 x 1
    convolution (He et al., MSRA's weights), not in the 3 x 3 one (torchvision's, Caffe2's
    ResNeXts); of no meaning for basic blocks. deformation: of the 3 x 3 convolutions in those
    stages where `deformed_stages` is true; needs bottlenecks.
    """

    depth: ResNetDepth
    norm_layer: NormLayer
    stem_norm_layer: NormLayer
    stem_channels: int = 64
    res2_planes: int = 64
    groups: int = 1
    width_per_group: int = 64
    stride_in_1x1: bool = False
    deformation: Deformation = _DEFORMABLE_V1
    deformed_stages: tuple[bool, bool, bool, bool] = (False, False, False, False)
    initialisation: Initialisation = "torchvision"

    def channels_of(self, stage: int) -> int:
        """What the stage puts out; 0 is layer1."""
        return self.planes_of(stage) * int(self.depth.block.expansion)

    def planes_of(self, stage: int) -> int:
        return self.res2_planes << stage


class ResNet(nn.Module):
    """The stem and the first `num_stages` stages; returns the output of each stage, finest first.

    strides, channels: of these outputs.
    """

    def __init__(self, plan: ResNetPlan, num_stages: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, plan.stem_channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = plan.stem_norm_layer(plan.stem_channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.strides = STAGE_STRIDES[:num_stages]
        self.channels = tuple(plan.channels_of(stage) for stage in range(num_stages))
        for stage, in_channels in enumerate((plan.stem_channels, *self.channels[:-1])):
            layer = _make_stage(plan, stage, in_channels, deformed=plan.deformed_stages[stage])
            self.add_module(f"layer{stage + 1}", layer)
        initialise_convolutions(self, plan.initialisation)

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: float[N, 3, H, W]. Returns float[N, channels, H / stride, W / stride] each."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        outputs = []
        for stage in range(len(self.strides)):
            x = self.get_submodule(f"layer{stage + 1}")(x)
            outputs.append(x)
        return outputs

    def freeze(self, count: int) -> None:
        """Stop training the first `count` of: the stem, layer1, layer2, ...; below 1 none."""
        parts: list[nn.Module] = [nn.ModuleList([self.conv1, self.bn1])]
        parts += [self.get_submodule(f"layer{i + 1}") for i in range(len(self.strides))]
        for part in parts[: max(count, 0)]:
            part.requires_grad_(False)


class Res5Head(nn.Module):
    """The last stage, layer4, over pooled regions: the box head of the C4 models.

    float[R, in_channels, S, S] -> float[R, out_channels, S', S'], where S' is half of S, rounded
    up, or S where the stage is dilated: it then has no stride, as in the predecessor (resnet.py).
    Its convolutions are never deformable there.
    """

    def __init__(self, plan: ResNetPlan, dilation: int = 1) -> None:
        super().__init__()
        self.in_channels, self.out_channels = plan.channels_of(2), plan.channels_of(3)
        self.layer4 = _make_stage(plan, 3, self.in_channels, dilation=dilation)
        initialise_convolutions(self, plan.initialisation)

    def forward(self, regions: Tensor) -> Tensor:
        output: Tensor = self.layer4(regions)
        return output


def initialise_convolutions(module: nn.Module, initialisation: Initialisation) -> None:
    """Draw the weights of all convolutions without bias anew.

    caffe2: the predecessor's XavierFill, uniform with the variance 1 / fan-in (its resnet.py).
    torchvision: He's normal distribution by fan-out.
    """
    for each in module.modules():
        if isinstance(each, nn.Conv2d) and initialisation == "caffe2":
            nn.init.kaiming_uniform_(each.weight, a=1)
        elif isinstance(each, nn.Conv2d):
            nn.init.kaiming_normal_(each.weight, mode="fan_out", nonlinearity="relu")
    for each in module.modules():
        if isinstance(each, DeformableConvolution):
            each.reset_parameters(initialisation)


def _make_stage(
    plan: ResNetPlan, stage: int, in_channels: int, *, deformed: bool = False, dilation: int = 1
) -> nn.Sequential:
    """The blocks of one stage, 0 being layer1; its first block has the stride, unless dilated."""
    stride = 2 if stage > 0 and dilation == 1 else 1
    first = _make_block(plan, stage, in_channels, stride=stride, dilation=dilation)
    out_channels = plan.channels_of(stage)
    blocks = [first]
    for _ in range(plan.depth.blocks[stage] - 1):
        blocks.append(_make_block(plan, stage, out_channels, stride=1, dilation=dilation))
    if deformed:
        for block in blocks:
            block.conv2 = _deformable(block.conv2, plan.deformation)
    return nn.Sequential(*blocks)


def _deformable(plain: nn.Conv2d, deformation: Deformation) -> DeformableConvolution:
    return DeformableConvolution(
        plain.in_channels,
        plain.out_channels,
        deformation,
        stride=plain.stride[0],
        groups=plain.groups,
    )


def _make_block(
    plan: ResNetPlan, stage: int, in_channels: int, *, stride: int, dilation: int
) -> BasicBlock | Bottleneck:
    shortcut = _shortcut(in_channels, plan.channels_of(stage), stride, plan.norm_layer)
    planes = plan.planes_of(stage)
    if not plan.depth.has_bottlenecks:
        return BasicBlock(
            in_channels,
            planes,
            stride,
            shortcut,
            dilation=dilation,
            norm_layer=plan.norm_layer,
        )
    # The block multiplies planes by base_width / 64 and cuts off: the hair more than exact keeps a
    # rounded quotient from costing a channel.
    base_width = 64 * plan.width_per_group / plan.res2_planes * (1 + 1e-9)
    block = Bottleneck(
        in_channels,
        planes,
        stride,
        shortcut,
        groups=plan.groups,
        base_width=base_width,
        dilation=dilation,
        norm_layer=plan.norm_layer,
    )
    if plan.stride_in_1x1:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return block


def _shortcut(
    in_channels: int, out_channels: int, stride: int, norm_layer: NormLayer
) -> nn.Sequential | None:
    """The 1 x 1 convolution beside a block that changes the shape; None for the identity."""
    if stride == 1 and in_channels == out_channels:
        return None
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)
    return nn.Sequential(conv, norm_layer(out_channels))

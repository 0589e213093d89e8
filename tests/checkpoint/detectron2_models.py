"""Small models with detectron2's modules, names and formulas, written after its modeling/."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

BLOCKS = (3, 4, 6, 3)


class Conv2d(nn.Conv2d):
    """A convolution that holds its norm, as layers/wrappers.py has it."""

    def __init__(
        self, inside: int, outside: int, kernel: int, *, norm: str = "", **options: int
    ) -> None:
        super().__init__(inside, outside, kernel, padding=kernel // 2, bias=not norm, **options)
        if norm == "FrozenBN":
            self.norm = FrozenBatchNorm2d(outside, eps=1e-5)
        elif norm == "GN":
            self.norm = nn.GroupNorm(2, outside)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return self.norm(x) if hasattr(self, "norm") else x


class Stem(nn.Module):
    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.conv1 = Conv2d(3, channels, 7, stride=2, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.conv1(x).relu(), kernel_size=3, stride=2, padding=1)


class BottleneckBlock(nn.Module):
    def __init__(
        self, inside: int, middle: int, outside: int, stride: int, groups: int, norm: str
    ) -> None:
        super().__init__()
        in_1x1 = groups == 1 and norm != "GN"
        if inside != outside:
            self.shortcut = Conv2d(inside, outside, 1, stride=stride, norm=norm)
        self.conv1 = Conv2d(inside, middle, 1, stride=stride if in_1x1 else 1, norm=norm)
        second = 1 if in_1x1 else stride
        self.conv2 = Conv2d(middle, middle, 3, stride=second, groups=groups, norm=norm)
        self.conv3 = Conv2d(middle, outside, 1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(self.conv2(self.conv1(x).relu()).relu())
        return (y + (self.shortcut(x) if hasattr(self, "shortcut") else x)).relu()


class ResNet(nn.Module):
    def __init__(self, stem: int, res2: int, stages: int, groups: int, norm: str) -> None:
        super().__init__()
        self.stem = Stem(stem, norm)
        self.channels = [res2 << stage for stage in range(stages)]
        for stage, inside in enumerate([stem, *self.channels[:-1]]):
            blocks = make_stage(inside, self.channels[stage], stage, groups, norm)
            self.add_module(f"res{stage + 2}", blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = [self.stem(x)]
        for stage in range(len(self.channels)):
            outputs.append(self.get_submodule(f"res{stage + 2}")(outputs[-1]))
        return outputs[1:]


def make_stage(inside: int, outside: int, stage: int, groups: int, norm: str) -> nn.Sequential:
    middle = outside // 4 * (2 if groups > 1 else 1)
    return nn.Sequential(
        *(
            BottleneckBlock(
                outside if block else inside,
                middle,
                outside,
                2 if stage and not block else 1,
                groups,
                norm,
            )
            for block in range(BLOCKS[stage])
        )
    )


class P6P7(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(inside, outside, 3, 2, 1)
        self.p7 = nn.Conv2d(outside, outside, 3, 2, 1)


class FPN(nn.Module):
    """levels: the stages under it, 2 to 5 or 3 to 5."""

    def __init__(
        self, bottom_up: ResNet, width: int, levels: Sequence[int], norm: str, p6p7: bool
    ) -> None:
        super().__init__()
        self.bottom_up = bottom_up
        self.levels = levels
        for level in levels:
            inside = bottom_up.channels[level - 2]
            self.add_module(f"fpn_lateral{level}", Conv2d(inside, width, 1, norm=norm))
            self.add_module(f"fpn_output{level}", Conv2d(width, width, 3, norm=norm))
        if p6p7:
            self.top_block = P6P7(bottom_up.channels[-1], width)

    def forward(self, x: Tensor) -> list[Tensor]:
        stages = self.bottom_up(x)
        above, outputs = None, []
        for level in reversed(self.levels):
            lateral = self.get_submodule(f"fpn_lateral{level}")(stages[level - 2])
            if above is not None:
                lateral = lateral + F.interpolate(above, scale_factor=2.0, mode="nearest")
            above = lateral
            outputs.insert(0, self.get_submodule(f"fpn_output{level}")(lateral))
        if not hasattr(self, "top_block"):
            return [*outputs, F.max_pool2d(outputs[-1], kernel_size=1, stride=2)]
        p6 = self.top_block.p6(stages[-1])
        return [*outputs, p6, self.top_block.p7(p6.relu())]


class RPNHead(nn.Module):
    def __init__(self, inside: int, anchors: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, inside, 3, padding=1)
        self.objectness_logits = nn.Conv2d(inside, anchors, 1)
        self.anchor_deltas = nn.Conv2d(inside, 4 * anchors, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(x).relu()
        return self.objectness_logits(x), self.anchor_deltas(x)


class BoxHead(nn.Module):
    def __init__(self, inside: int, convs: int, fcs: int, width: int, norm: str) -> None:
        super().__init__()
        self.convs, self.fcs = convs, fcs
        for number in range(convs):
            self.add_module(f"conv{number + 1}", Conv2d(inside, inside, 3, norm=norm))
        values = inside * 7 * 7
        for number in range(fcs):
            self.add_module(f"fc{number + 1}", nn.Linear(width if number else values, width))

    def forward(self, x: Tensor) -> Tensor:
        for number in range(self.convs):
            x = self.get_submodule(f"conv{number + 1}")(x).relu()
        x = x.flatten(1)
        for number in range(self.fcs):
            x = self.get_submodule(f"fc{number + 1}")(x).relu()
        return x


class BoxPredictor(nn.Module):
    """Of K classes and, last, the background; a box of each class alone."""

    def __init__(self, inside: int, classes: int, box_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(inside, classes + 1)
        self.bbox_pred = nn.Linear(inside, 4 * box_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.mean(dim=(2, 3)) if x.dim() == 4 else x
        return self.cls_score(x), self.bbox_pred(x)


class MaskHead(nn.Module):
    def __init__(self, inside: int, convs: int, width: int, classes: int, norm: str) -> None:
        super().__init__()
        self.convs = convs
        for number in range(convs):
            channels = width if number else inside
            self.add_module(f"mask_fcn{number + 1}", Conv2d(channels, width, 3, norm=norm))
        self.deconv = nn.ConvTranspose2d(width if convs else inside, width, 2, stride=2)
        self.predictor = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        for number in range(self.convs):
            x = self.get_submodule(f"mask_fcn{number + 1}")(x).relu()
        return self.predictor(self.deconv(x).relu())


class KeypointHead(nn.Module):
    def __init__(self, inside: int, convs: int, width: int, keypoints: int) -> None:
        super().__init__()
        self.convs = convs
        for number in range(convs):
            layer = nn.Conv2d(width if number else inside, width, 3, padding=1)
            self.add_module(f"conv_fcn{number + 1}", layer)
        self.score_lowres = nn.ConvTranspose2d(width, keypoints, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for number in range(self.convs):
            x = self.get_submodule(f"conv_fcn{number + 1}")(x).relu()
        x = self.score_lowres(x)
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class RetinaNetHead(nn.Module):
    def __init__(self, inside: int, convs: int, anchors: int, classes: int) -> None:
        super().__init__()
        for name in ("cls_subnet", "bbox_subnet"):
            tower = [
                layer
                for _ in range(convs)
                for layer in (nn.Conv2d(inside, inside, 3, padding=1), nn.ReLU())
            ]
            self.add_module(name, nn.Sequential(*tower))
        self.cls_score = nn.Conv2d(inside, anchors * classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(inside, anchors * 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(self.cls_subnet(x)), self.bbox_pred(self.bbox_subnet(x))


def container(**parts: nn.Module) -> nn.Module:
    module = nn.Module()
    for name, part in parts.items():
        module.add_module(name, part)
    return module


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """float[A, 2], (width, height): modeling/anchor_generator.py, generate_cell_anchors."""
    shapes = []
    for size in sizes:
        for ratio in ratios:
            width = math.sqrt(size**2 / ratio)
            shapes.append([width, ratio * width])
    return torch.tensor(shapes)


def randomise(model: nn.Module) -> nn.Module:
    """Every parameter and statistic drawn, so that no two tensors can be taken for each other."""
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif ".norm." in name and name.endswith("weight"):
            tensor.uniform_(0.8, 1.2)
        else:
            tensor.normal_(std=0.1 if tensor.dim() < 2 else (1 / tensor[0].numel()) ** 0.5)
    return model.eval()

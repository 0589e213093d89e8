"""The boxes that a network's deltas start from: a few shapes, at every cell of every level."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection import anchor_utils

AnchorStyle = Literal["detectron", "torchvision", "detectron2"]


class AnchorGenerator(nn.Module):
    """Anchors of the given sizes and aspect ratios at every cell of each level.

    sizes: of each level one or more, in pixels of the network's input; as many in each.
    aspect_ratios: height / width, the same in all levels. strides: of each level, in pixels.
    style: how a shape becomes a box.
    - detectron: the ratio's sides are rounded at the stride's size, then scaled, and centred on the
      middle of the cell's pixels (generate_anchors.py of Detectron and of the predecessor). The
      boxes are inclusive, and a cell is a stride away from the next.
    - torchvision: centred on the cell's corner, rounded last. A cell is the batch's size over the
      level's, rounded down, away from the next, as torchvision trained its weights: on the pooled
      level of stride 64 that can be a few pixels less than 64.
    - detectron2: centred on the cell's corner, not rounded, a cell a stride away from the next
      (anchor_generator.py of detectron2, which has them size by size).

    Raises ValueError for numbers of sizes that do not fit together.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[float],
        strides: Sequence[int],
        style: AnchorStyle,
    ) -> None:
        super().__init__()
        _raise_if_uneven(sizes, strides)
        self.strides = list(strides)
        self.style = style
        self.anchors_per_cell = len(sizes[0]) * len(aspect_ratios)
        for level, (level_sizes, stride) in enumerate(zip(sizes, strides, strict=True)):
            if style == "detectron":
                cell = detectron_cell_anchors(level_sizes, aspect_ratios, stride)
            elif style == "torchvision":
                cell = torchvision_cell_anchors(level_sizes, aspect_ratios)
            else:
                cell = detectron2_cell_anchors(level_sizes, aspect_ratios)
            self.register_buffer(f"cell_anchors_{level}", cell, persistent=False)

    def forward(self, features: Sequence[Tensor], padded_size: tuple[int, int]) -> list[Tensor]:
        """float32[H * W * A, 4] of each level: row by row, in a cell ratio by ratio.

        features: float[N, C, H, W] of each level; padded_size: (height, width) of the batch.
        Raises ValueError if there are not as many levels as strides.
        """
        if len(features) != len(self.strides):
            raise ValueError(
                f"{len(features)} feature maps for anchors of {len(self.strides)} levels, of the "
                f"strides {self.strides}; give one feature map for each stride"
            )
        anchors = []
        for level, (feature, stride) in enumerate(zip(features, self.strides, strict=True)):
            height, width = feature.shape[-2:]
            step = (stride, stride)
            if self.style == "torchvision":
                step = (padded_size[0] // height, padded_size[1] // width)
            cell = self.get_buffer(f"cell_anchors_{level}")
            anchors.append(_at_every_cell(cell, (height, width), step))
        return anchors


def detectron_cell_anchors(
    sizes: Sequence[float], aspect_ratios: Sequence[float], stride: int
) -> Tensor:
    """float32[A, 4]: the anchors of the first cell, inclusive boxes, ratio by ratio.

    Computed in float64 as there, and rounded half to even: at stride 32 a ratio of 0.5 is 45 wide
    and, of 22.5, 22 high.
    """
    ratios = torch.tensor(aspect_ratios, dtype=torch.float64)
    widths = (stride * stride / ratios).sqrt().round()
    heights = (widths * ratios).round()
    scales = torch.tensor(sizes, dtype=torch.float64) / stride
    sides = (torch.stack([widths, heights], dim=1)[:, None] * scales[:, None]).flatten(0, 1)
    middle, reach = (stride - 1) / 2, (sides - 1) / 2
    return torch.cat([middle - reach, middle + reach], dim=1).float()


def torchvision_cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    """float32[A, 4]: torchvision's anchors of the first cell, ratio by ratio."""
    generator = anchor_utils.AnchorGenerator((tuple(sizes),), (tuple(aspect_ratios),))
    cell: Tensor = generator.cell_anchors[0]
    return cell


def detectron2_cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    """float32[A, 4]: detectron2's anchors of the first cell, ratio by ratio.

    Computed in float64 as there: each has the area of its size's square.
    """
    ratios = torch.tensor(aspect_ratios, dtype=torch.float64)[:, None]
    widths = torch.tensor(sizes, dtype=torch.float64) / ratios.sqrt()
    reach = torch.stack([widths, widths * ratios], dim=2).flatten(0, 1) / 2
    return torch.cat([-reach, reach], dim=1).float()


def lies_inside(anchors_xyxy: Tensor, image_size: tuple[int, int], straddle: float) -> Tensor:
    """bool[A]: which of float[A, 4] reach less than `straddle` pixels over the image's edge.

    image_size: (height, width), without the padding. straddle: negative for all. At the far edges
    the comparison is strict, so that at 0 an inclusive box ends on the image's last pixel.
    """
    if straddle < 0:
        return torch.ones_like(anchors_xyxy[:, 0], dtype=torch.bool)
    height, width = image_size
    x1, y1, x2, y2 = anchors_xyxy.unbind(dim=1)
    starts_inside = (x1 >= -straddle) & (y1 >= -straddle)
    return starts_inside & (x2 < width + straddle) & (y2 < height + straddle)


def _at_every_cell(cell: Tensor, grid: tuple[int, int], step: tuple[int, int]) -> Tensor:
    """float[H * W * A, 4] of float[A, 4]. grid: (H, W) in cells; step: (down, right) in pixels."""
    down = torch.arange(grid[0], device=cell.device) * step[0]
    right = torch.arange(grid[1], device=cell.device) * step[1]
    y, x = torch.meshgrid(down, right, indexing="ij")
    shift = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4)
    return (shift + cell).view(-1, 4)


def _raise_if_uneven(sizes: Sequence[Sequence[float]], strides: Sequence[int]) -> None:
    if len(sizes) != len(strides):
        raise ValueError(
            f"anchor sizes {list(sizes)} are of {len(sizes)} levels, but the strides "
            f"{list(strides)} of {len(strides)}; give the sizes of each level"
        )
    if len({len(level) for level in sizes}) != 1 or not sizes[0]:
        raise ValueError(
            f"anchor sizes {list(sizes)} differ in number between levels or are none, but one head "
            "serves all levels; give each level the same number of sizes, at least one"
        )

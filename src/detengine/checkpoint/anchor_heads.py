"""The heads on anchors in other programs: the order of a cell's anchors, the unit of deltas.

Ours, torchvision's and the predecessor's anchors stand ratio by ratio, in each size by size, and so
do the channels that predict them. Those of detectron2, and of RetinaNet in Caffe2 Detectron, stand
size by size. The deltas of our RetinaNets and the predecessor's are multiplied by 10, 10, 5 and 5;
those of torchvision, detectron2 and Caffe2 Detectron are not.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

RETINANET_FACTORS = (10.0, 10.0, 5.0, 5.0)
"""Of our RetinaNets' deltas (modeling/build_retinanet.py)."""

_ON_ANCHORS = re.compile(
    r"(rpn\.head\.(?:cls_logits|bbox_pred)|head\.classification_head\.cls_logits"
    r"|head\.regression_head\.bbox_reg)\.(?:weight|bias)"
)
_DELTAS = "head.regression_head.bbox_reg."
_SCORES = "head.classification_head.cls_logits."


class AnchorLayout(NamedTuple):
    """What a program's RPN and RetinaNet have of their own.

    rpn_by_size, retinanet_by_size: whether a cell's anchors stand size by size. plain_deltas:
    whether RetinaNet's deltas are not multiplied by anything.
    """

    rpn_by_size: bool
    retinanet_by_size: bool
    plain_deltas: bool


def rearrange_anchor_heads(
    sources: Mapping[str, str], loaded: Mapping[str, Tensor], model: nn.Module, theirs: AnchorLayout
) -> dict[str, Tensor]:
    """By our names, the tensors of the heads on anchors in our layout, where it is another.

    sources: by our names, the file's. Nothing for a model whose anchors are not ours.
    """
    grid = _anchor_grid(model)
    if grid is None:
        return {}
    return {
        name: _to_ours(name, loaded[source], grid, theirs)
        for name, source in sources.items()
        if _differs(name, theirs)
    }


def without_first_class(
    sources: Mapping[str, str], loaded: Mapping[str, Tensor], model: nn.Module
) -> dict[str, Tensor]:
    """By our names, RetinaNet's class scores less those of the background, which ours has not.

    sources: by our names, the file's. Nothing for a model whose anchors are not ours.
    """
    grid, found = _anchor_grid(model), {}
    for name in (f"{_SCORES}{parameter}" for parameter in ("weight", "bias")):
        tensor = loaded[sources[name]] if name in sources else None
        if grid is None or tensor is None or tensor.dim() == 0:
            continue
        anchors = grid[0] * grid[1]
        if len(tensor) and len(tensor) % anchors == 0:
            rows = tensor.reshape(anchors, -1, *tensor.shape[1:])
            found[name] = rows[:, 1:].flatten(0, 1)
    return found


def to_their_layout(name: str, tensor: Tensor, model: nn.Module, theirs: AnchorLayout) -> Tensor:
    """A tensor of a head on anchors as another program has it; any other as it is. name: ours."""
    grid = _anchor_grid(model)
    if grid is None or not _differs(name, theirs):
        return tensor
    if name.startswith(_DELTAS) and theirs.plain_deltas:
        tensor = _scaled(tensor, [1 / factor for factor in RETINANET_FACTORS])
    return _regrouped(tensor, grid) if _is_by_size(name, theirs) else tensor


def _to_ours(name: str, tensor: Tensor, grid: tuple[int, int], theirs: AnchorLayout) -> Tensor:
    if _is_by_size(name, theirs):
        tensor = _regrouped(tensor, (grid[1], grid[0]))
    if name.startswith(_DELTAS) and theirs.plain_deltas:
        tensor = _scaled(tensor, RETINANET_FACTORS)
    return tensor


def _differs(name: str, theirs: AnchorLayout) -> bool:
    if not _ON_ANCHORS.fullmatch(name):
        return False
    return _is_by_size(name, theirs) or (name.startswith(_DELTAS) and theirs.plain_deltas)


def _is_by_size(name: str, theirs: AnchorLayout) -> bool:
    return theirs.rpn_by_size if name.startswith("rpn.") else theirs.retinanet_by_size


def _regrouped(tensor: Tensor, groups: tuple[int, int]) -> Tensor:
    """Rows that stand in groups[0] groups of groups[1] anchors, the other way round.

    tensor: [A * values, ...]; as it is where its rows are no such number.
    """
    if tensor.dim() == 0 or not len(tensor) or len(tensor) % (groups[0] * groups[1]):
        return tensor
    values = len(tensor) // (groups[0] * groups[1])
    rows = tensor.reshape(*groups, values, *tensor.shape[1:])
    return rows.transpose(0, 1).reshape(tensor.shape)


def _scaled(tensor: Tensor, factors: tuple[float, ...] | list[float]) -> Tensor:
    """tensor: [A * 4, ...], its rows dx, dy, dw, dh in turn."""
    if tensor.dim() == 0 or len(tensor) % 4 or not tensor.is_floating_point():
        return tensor
    each = torch.tensor(factors, dtype=torch.float64).repeat(len(tensor) // 4)
    return (tensor.double() * each.view(-1, *[1] * (tensor.dim() - 1))).to(tensor.dtype)


def _anchor_grid(model: nn.Module) -> tuple[int, int] | None:
    """Of a cell's anchors the number of ratios and of sizes; None if the model has none of ours.

    Told from the anchors themselves, ratio by ratio: in the right grid each row has one shape, each
    column one area. Rounding is least on the coarsest level, so that one is looked at.
    """
    levels = {
        int(match[1]): buffer.detach().double().cpu()
        for name, buffer in model.named_buffers()
        if (match := re.fullmatch(r"(?:rpn\.)?anchor_generator\.cell_anchors_(\d+)", name))
    }
    if not levels:
        return None
    x1, y1, x2, y2 = levels[max(levels)].unbind(dim=1)
    width, height = (x2 - x1).clamp(min=1).log(), (y2 - y1).clamp(min=1).log()
    count = len(width)
    grids = [(ratios, count // ratios) for ratios in range(1, count + 1) if count % ratios == 0]
    return min(grids, key=lambda grid: _unevenness(height - width, height + width, grid))


def _unevenness(log_ratio: Tensor, log_area: Tensor, grid: tuple[int, int]) -> float:
    """How far the rows of a grid are from one ratio, and its columns from one area."""
    of_rows = log_ratio.view(grid).var(dim=1, unbiased=False).sum()
    of_columns = log_area.view(grid).var(dim=0, unbiased=False).sum()
    return float(of_rows + of_columns)

"""What takes the place of `export_operators` in a file: functions of ONNX operators, opset 18.

Importing this needs onnxscript, which compiles the functions below. They are written in its part of
Python and never run here.
"""
# mypy: ignore-errors
# Lists and numbers are tensors in that part of Python, and names of dtypes numbers.

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import BOOL, FLOAT, script
from onnxscript import opset18 as op

from detengine.modeling import export_operators  # noqa: F401  # makes the operators known to torch


@script(default_opset=op)
def survivors_of_groups(
    boxes_xyxy: FLOAT, scores: FLOAT, iou_threshold: float, score_threshold: float
) -> BOOL:
    """ONNX's own suppression, which lists what stays as (group, class, place), as a mask."""
    most = op.Constant(value_int=2147483647)
    kept = op.NonMaxSuppression(
        boxes_xyxy,
        scores,
        most,
        op.Reshape(iou_threshold, [1]),
        op.Reshape(score_threshold, [1]),
    )
    nothing = op.Cast(op.ConstantOfShape(op.Shape(scores)), to=9)
    stays = op.Expand(op.Constant(value_int=1), op.Shape(kept, start=0, end=1))
    return op.ScatterND(nothing, kept, op.Cast(stays, to=9))


@script(default_opset=op)
def points_of_heatmaps(heatmaps: FLOAT, boxes_xyxy: FLOAT) -> FLOAT:
    """One detection after the other, as no two have boxes of one size."""
    corner = op.Slice(boxes_xyxy, [0], [2], [1])
    sides = op.Max(op.Slice(boxes_xyxy, [2], [4], [1]) - corner, 1.0)
    whole = op.Ceil(sides)
    cells = op.Cast(op.Squeeze(op.Shape(heatmaps, start=3, end=4)), to=1)
    cell = op.Range(-2.0, cells + 2.0, 1.0)  # with the outermost twice more beyond either end
    joints = op.Shape(heatmaps, start=1, end=2)
    found = op.Expand(0.0, op.Concat([0], joints, [3], axis=0))
    count = op.Squeeze(op.Shape(boxes_xyxy, start=0, end=1))
    for index in range(count):
        size = op.Gather(whole, index)
        size_in_pixels = op.Cast(size, to=7)
        width = op.Slice(size_in_pixels, [0], [1], [0])
        height = op.Slice(size_in_pixels, [1], [2], [0])
        # How much each cell weighs in each pixel of the width, and of the height: the cubic kernel
        # with a = -0.75, at the distance from cell to pixel. The shorter side gets some to spare.
        pixel = op.Range(0.0, op.ReduceMax(size, keepdims=0), 1.0)
        centre = (op.Unsqueeze(pixel, [0]) + 0.5) * op.Unsqueeze(cells / size, [1]) - 0.5
        d = op.Abs(op.Unsqueeze(centre, [2]) - op.Unsqueeze(cell, [0, 1]))
        near = (1.25 * d - 2.25) * d * d + 1.0
        far = ((-0.75 * d + 3.75) * d - 6.0) * d + 3.0
        weights = op.Where(d <= 1.0, near, op.Where(d < 2.0, far, 0.0 * d))
        of_width = op.Slice(op.Gather(weights, 0), [0], width, [0])
        of_height = op.Slice(op.Gather(weights, 1), [0], height, [0])
        maps = op.Pad(op.Gather(heatmaps, index), [0, 2, 2, 0, 2, 2], mode="edge")
        across = op.MatMul(maps, op.Transpose(of_width, perm=[1, 0]))
        resized = op.MatMul(of_height, across)
        flat = op.Reshape(resized, op.Concat(joints, [-1], axis=0))
        place = op.ArgMax(flat, axis=1, keepdims=1)
        x = op.Cast(op.Mod(place, width), to=1)
        y = op.Cast(place / width, to=1)
        highest = op.Concat(x, y, op.ReduceMax(flat, [1]), axis=1)
        found = op.Concat(found, op.Unsqueeze(highest, [0]), axis=0)
    pixels = op.Slice(found, [0], [2], [2])
    points = (pixels + 0.5) * op.Unsqueeze(sides / whole, [1]) + op.Unsqueeze(corner, [1])
    return op.Concat(points, op.Slice(found, [2], [3], [2]), axis=2)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For torch.onnx.export: of each of our operators what it is in ONNX."""
    return {
        torch.ops.detengine.survivors_of_groups.default: survivors_of_groups,
        torch.ops.detengine.points_of_heatmaps.default: points_of_heatmaps,
    }

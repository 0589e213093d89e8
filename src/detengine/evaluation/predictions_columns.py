"""Predictions as plain columns, and back: those of image i are `offsets[i]:offsets[i + 1]`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor

from detengine.structures.ground_truth import PackedBytes
from detengine.structures.prediction import Prediction
from detengine.structures.rle import RLE

_OPTIONAL = ("labels", "keypoints", "keypoint_scores")
_INTEGERS = (torch.int64,)
_NUMBERS = (torch.float32, torch.float64)
_ANY_NUMBERS = (*_NUMBERS, torch.float16, torch.bfloat16)


def parts_of(prediction: Prediction) -> list[str]:
    """Which of the fields that may be missing it has."""
    return [name for name in (*_OPTIONAL, "rles") if getattr(prediction, name) is not None]


def make_columns(image_ids: list[int], predictions: list[Prediction]) -> dict[str, Any]:
    """All predictions in one tensor a field."""
    columns: dict[str, Any] = {
        "image_ids": torch.tensor(image_ids, dtype=torch.int64),
        "sizes": torch.tensor([each.size for each in predictions], dtype=torch.int64).view(-1, 2),
        "offsets": torch.tensor([0, *map(len, predictions)]).cumsum(0),
    }
    parts = parts_of(predictions[0]) if predictions else []
    for name in ("boxes_xyxy", "scores", *_OPTIONAL):
        given = predictions and (name not in _OPTIONAL or name in parts)
        columns[name] = torch.cat([getattr(p, name) for p in predictions]) if given else None
    columns["rle_bytes"] = columns["rle_offsets"] = None
    if "rles" in parts:
        packed = PackedBytes.from_list([rle["counts"] for p in predictions for rle in p.rles or []])
        columns["rle_bytes"], columns["rle_offsets"] = packed.data, packed.offsets
    return columns


def read_columns(columns: Mapping[str, Any]) -> Iterator[tuple[int, Prediction]]:
    """Each image's id and prediction, of columns that fit together."""
    bounds: list[int] = columns["offsets"].tolist()
    masks = None
    if columns["rle_bytes"] is not None:
        masks = PackedBytes(columns["rle_bytes"], columns["rle_offsets"])
    for index, image_id in enumerate(columns["image_ids"].tolist()):
        start, stop = bounds[index : index + 2]
        height, width = columns["sizes"][index].tolist()
        rles: list[RLE] | None = None
        if masks is not None:
            rles = [{"size": [height, width], "counts": masks[n]} for n in range(start, stop)]
        yield (
            image_id,
            Prediction(
                boxes_xyxy=columns["boxes_xyxy"][start:stop],
                scores=columns["scores"][start:stop],
                size=(height, width),
                rles=rles,
                **{
                    name: None if columns[name] is None else columns[name][start:stop]
                    for name in _OPTIONAL
                },
            ),
        )


def unfit_columns(columns: Mapping[str, Any]) -> list[str]:
    """Those that are missing, of another type, or not as long as the others make them."""
    names, bounds, of_masks = (columns.get(k) for k in ("categories", "offsets", "rle_offsets"))
    images, boxes = (len(bounds) - 1, int(bounds[-1])) if _are_bounds(bounds) else (-1, -1)
    masks = int(of_masks[-1]) if _are_bounds(of_masks) else -1
    optional = {*_OPTIONAL, "rle_offsets", "rle_bytes"}
    if not images:
        optional |= {"boxes_xyxy", "scores"}
    expected: dict[str, tuple[Sequence[torch.dtype], Sequence[int | None]]] = {
        "offsets": (_INTEGERS, (images + 1,)),
        "image_ids": (_INTEGERS, (images,)),
        "sizes": (_INTEGERS, (images, 2)),
        "boxes_xyxy": (_NUMBERS, (boxes, 4)),
        "scores": (_NUMBERS, (boxes,)),
        "labels": (_INTEGERS, (boxes,)),
        "keypoints": (_NUMBERS, (boxes, None, 3)),
        "keypoint_scores": (_ANY_NUMBERS, (boxes, None)),
        "rle_offsets": (_INTEGERS, (boxes + 1,)),
        "rle_bytes": ((torch.uint8,), (masks,)),
    }
    unfit = [
        name
        for name, (dtypes, shape) in expected.items()
        if name not in columns
        or not _is_column(columns[name], dtypes, shape, may_be_none=name in optional)
    ]
    sizes = columns.get("sizes")
    if "sizes" not in unfit and isinstance(sizes, Tensor) and bool((sizes < 1).any()):
        unfit.append("sizes")
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        unfit.append("categories")
    return unfit if isinstance(columns.get("origin"), str) else [*unfit, "origin"]


def _is_column(
    column: object, dtypes: Sequence[torch.dtype], shape: Sequence[int | None], *, may_be_none: bool
) -> bool:
    """Whether it is a tensor of one of the types and this shape, in which None is any length."""
    if not isinstance(column, Tensor):
        return may_be_none and column is None
    return (
        _is_stored(column)
        and column.dtype in dtypes
        and column.ndim == len(shape)
        and all(length in (None, own) for own, length in zip(column.shape, shape, strict=True))
    )


def _is_stored(column: Tensor) -> bool:
    """Whether it is nothing but numbers, all of them in the file: strides of 0 claim any length."""
    return (
        column.layout == torch.strided
        and not column.is_meta
        and not column.requires_grad
        and column.numel() * column.element_size() <= column.untyped_storage().nbytes()
    )


def _are_bounds(offsets: object) -> TypeGuard[Tensor]:
    """Whether they are int64[N + 1] that begin with 0 and never fall."""
    return (
        isinstance(offsets, Tensor)
        and _is_stored(offsets)
        and offsets.dtype == torch.int64
        and offsets.ndim == 1
        and offsets.tolist()[:1] == [0]
        and bool((offsets.diff() >= 0).all())
    )

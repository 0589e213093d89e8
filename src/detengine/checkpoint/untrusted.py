"""What a file from anywhere must be to be taken for weights: numbers, and no more than it has."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from detengine.untrusted.excerpt import excerpt

_KINDS = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool,
)  # fmt: skip


def raise_if_not_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError, naming the tensor, unless all are numbers that are in the file.

    A tensor may repeat a few bytes by strides of 0, and so claim any size; one that claims more
    than its whole file has is no model's.
    """
    size = path.stat().st_size
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise ValueError(f"the weights in {path} have the name {excerpt(name)}; expected text.")
        if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in _KINDS:
            raise ValueError(
                f"{excerpt(name)} in {path} is a tensor of {_kind(tensor)}; expected a dense one "
                "of floating-point numbers or integers. Save the weights in that form."
            )
        if tensor.numel() * tensor.element_size() > size:
            raise ValueError(
                f"{excerpt(name)} in {path} is said to have the shape {list(tensor.shape)}, which "
                f"is more than the file's {size:,} bytes can hold: the file is damaged, or was "
                "made to fill the memory."
            )


def _kind(tensor: Tensor) -> str:
    if tensor.is_meta:
        return "the meta device, without any numbers"
    layout = "" if tensor.layout == torch.strided else f", {tensor.layout}"
    return f"{tensor.dtype}{layout}"

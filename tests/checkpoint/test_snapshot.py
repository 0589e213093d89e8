import io
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor

from detengine.checkpoint.snapshot import snapshot


def saved(data: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(data, file)
    return file.getvalue()


def state() -> dict[str, Any]:
    """What torch can save in one file: tied weights, views, other types and layouts."""
    weight = torch.arange(12.0).reshape(3, 4)
    return {
        "model": OrderedDict(weight=weight, tied=weight, row=weight[1], turned=weight.t()),
        "types": [torch.ones(2, dtype=t) for t in (torch.bfloat16, torch.int64, torch.bool)],
        "empty": (torch.empty(0, 4), torch.tensor(3.0), weight.to_sparse()),
        "complex": torch.ones(2, dtype=torch.complex64),
        "plain": {"name": "x", "values": [1, 2.5, None, b"b", (1, [2])]},
    }


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value.to_dense()]
    items = value.values() if isinstance(value, dict) else value
    nested = isinstance(value, dict | list | tuple)
    return [tensor for item in items for tensor in tensors_in(item)] if nested else []


@pytest.mark.parametrize("clone", [True, False])
def test_a_snapshot_is_saved_to_the_same_bytes(clone: bool) -> None:
    assert saved(snapshot(state(), clone=clone)) == saved(state())


def test_tied_weights_stay_tied() -> None:
    model = snapshot(state(), clone=True)["model"]
    model["weight"][1] = -1.0
    assert model["tied"][1].tolist() == model["row"].tolist() == [-1.0] * 4
    assert model["turned"][:, 1].tolist() == [-1.0] * 4


def test_what_is_done_to_the_data_later_is_not_in_the_snapshot() -> None:
    data = state()
    copy = snapshot(data, clone=True)
    for tensor in [data["model"]["weight"], *data["types"], data["complex"]]:
        tensor.zero_()
    data["plain"]["values"].append(3)
    del data["model"]["tied"]
    assert saved(copy) == saved(state())


def test_without_cloning_no_memory_is_copied() -> None:
    data = state()
    copy = snapshot(data, clone=False)
    assert copy["model"]["weight"].data_ptr() == data["model"]["weight"].data_ptr()


def test_a_parameter_becomes_a_plain_tensor() -> None:
    copy = snapshot({"weight": torch.nn.Parameter(torch.ones(2))}, clone=True)["weight"]
    assert type(copy) is Tensor
    assert not copy.requires_grad


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_from_a_gpu_the_bytes_are_those_of_the_cpu() -> None:
    data = state()
    on_gpu = {
        "model": OrderedDict(),
        "types": [tensor.cuda() for tensor in data["types"]],
        "empty": tuple(tensor.cuda() for tensor in data["empty"]),
        "complex": data["complex"].cuda(),
        "plain": data["plain"],
    }
    weight = data["model"]["weight"].cuda()
    on_gpu["model"].update(weight=weight, tied=weight, row=weight[1], turned=weight.t())
    copy = snapshot(on_gpu, clone=True)
    weight.zero_()
    assert saved(copy) == saved(data)
    assert all(tensor.device.type == "cpu" for tensor in tensors_in(copy))

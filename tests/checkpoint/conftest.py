from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

ModelOf = Callable[..., nn.Module]


def _add(model: nn.Module, name: str, tensor: Tensor, *, persistent: bool = True) -> None:
    """Put a buffer under a dotted name, with the modules that it needs."""
    *path, own_name = name.split(".")
    for part in path:
        if part not in dict(model.named_children()):
            model.add_module(part, nn.Module())
        model = model.get_submodule(part)
    model.register_buffer(own_name, torch.zeros_like(tensor), persistent=persistent)


@pytest.fixture(scope="session")
def model_of() -> ModelOf:
    """A model of zeros with the given names, frozen norms and anchors at the given places."""

    def make(
        tensors: Mapping[str, Tensor],
        *,
        frozen_norms: Mapping[str, FrozenBatchNorm2d] | None = None,
        anchors: Mapping[str, Tensor] | None = None,
    ) -> nn.Module:
        model = nn.Module()
        for name, tensor in tensors.items():
            _add(model, name, tensor)
        for name, norm in (frozen_norms or {}).items():
            _add(model, f"{name}.placeholder", torch.zeros(1), persistent=False)
            parent, _, own_name = name.rpartition(".")
            model.get_submodule(parent).add_module(own_name, norm)
        for name, tensor in (anchors or {}).items():
            _add(model, name, tensor, persistent=False)
            model.get_buffer(name).copy_(tensor)
        return model

    return make

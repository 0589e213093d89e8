from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from detengine.untrusted.disguise import raise_if_disguised

FILE = Path("x.pth")


def test_what_programs_save_is_no_disguise() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters())
    raise_if_disguised(FILE, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    marked = torch.zeros(1)
    marked.is_kept = True  # type: ignore[attr-defined]
    raise_if_disguised(FILE, [marked])


@pytest.mark.parametrize("name", ["items", "values", "get", "keys"])
def test_a_dict_with_a_method_of_its_own_is_refused_wherever_it_is(name: str) -> None:
    disguised = OrderedDict(a=torch.zeros(1))
    setattr(disguised, name, 3)
    with pytest.raises(ValueError, match=rf"x\.pth holds a OrderedDict with a '{name}' of its own"):
        raise_if_disguised(FILE, {"a": [(1, disguised)]})


def test_a_tensor_with_a_method_of_its_own_is_refused() -> None:
    disguised = torch.zeros(1)
    disguised.numel = 3  # type: ignore[assignment,method-assign]
    with pytest.raises(ValueError, match=r"x\.pth holds a Tensor with a 'numel' of its own"):
        raise_if_disguised(FILE, {"a": disguised})


def test_what_holds_itself_is_looked_at_once() -> None:
    circle: list[object] = []
    circle.append(circle)
    raise_if_disguised(FILE, circle)

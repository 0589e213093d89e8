import pytest
import torch

from detengine.monitor.metric_logger import MetricLogger
from detengine.monitor.scalars import Scalars


def test_scalars_are_read_like_a_dict_of_the_losses_they_were_made_of() -> None:
    weight = torch.tensor(3.0, requires_grad=True)
    losses = {
        "loss": weight * 2,
        "loss_mask": torch.tensor([0.5]),
        "half": torch.tensor(2.0).half(),
    }
    scalars = Scalars.of(losses)
    assert list(scalars) == ["loss", "loss_mask", "half"]
    assert {name: float(each) for name, each in scalars.items()} == scalars.numbers()
    assert scalars.numbers() == {"loss": 6.0, "loss_mask": 0.5, "half": 2.0}
    assert not scalars["loss"].requires_grad
    with pytest.raises(KeyError):
        scalars["loss_box"]


def test_scalars_keep_their_values_when_a_loss_is_reused_in_place() -> None:
    loss = torch.tensor(1.0)
    scalars = Scalars.of({"loss": loss})
    loss.fill_(9)
    assert scalars.numbers() == {"loss": 1.0}


def test_a_sum_counts_what_one_side_lacks_as_nothing() -> None:
    first = Scalars.of({"loss": torch.tensor(1.0), "a": torch.tensor(2.0)})
    second = Scalars.of({"loss": torch.tensor(4.0), "b": torch.tensor(8.0)})
    assert (first + first).numbers() == {"loss": 2.0, "a": 4.0}
    assert (first + second).numbers() == {"loss": 5.0, "a": 2.0, "b": 8.0}


def test_meters_take_scalars_as_they_take_their_values() -> None:
    losses = {"loss": torch.tensor(1.25), "loss_mask": torch.tensor(0.5)}
    together, apart = MetricLogger(), MetricLogger()
    for step in range(30):
        together.update(Scalars.of(losses), time=float(step))
        apart.update(**losses, time=float(step))
    assert str(together) == str(apart)
    assert together.state_dict() == apart.state_dict()

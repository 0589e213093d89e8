import json
from pathlib import Path

import pytest
import torch
from torch import nn

from detengine.solver.optimizers import ParameterGroups, adamw, parameter_groups, sgd
from detengine.solver.precision import can_skip

RECORDING = Path(__file__).parents[3] / "shared/golden/small/optimizer_table.json"


def groups_of(model: nn.Module) -> ParameterGroups:
    return parameter_groups(
        model.named_parameters(), lr=0.02, weight_decay=1e-4, bias_lr=0.04, bias_weight_decay=0.0
    )


def model_with_norm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.Conv2d(4, 1, 1))


def test_each_parameter_learns_as_the_predecessors_did() -> None:
    if not RECORDING.exists():
        pytest.skip("the recordings of the predecessor are not here")
    for recorded in json.loads(RECORDING.read_text()).values():
        solver = recorded["solver"]
        names = [each["name"] for each in recorded["groups"]]
        parameters = {name: nn.Parameter(torch.zeros(1)) for name in names}
        frozen = {name: nn.Parameter(torch.zeros(1), False) for name in recorded["frozen"]}
        groups = parameter_groups(
            (parameters | frozen).items(),
            lr=solver["BASE_LR"],
            weight_decay=solver["WEIGHT_DECAY"],
            bias_lr=solver["BASE_LR"] * solver["BIAS_LR_FACTOR"],
            bias_weight_decay=solver["WEIGHT_DECAY_BIAS"],
        )
        name_of = {parameter: name for name, parameter in parameters.items()}
        ours = {
            name_of[parameter]: (group["lr"], group["weight_decay"])
            for group in groups
            for parameter in group["params"]
        }
        assert ours == {
            each["name"]: (each["lr"], each["weight_decay"]) for each in recorded["groups"]
        }


def test_there_are_two_named_groups_with_the_weights_first() -> None:
    weights, biases = groups_of(model_with_norm())
    assert (weights["name"], weights["lr"], weights["weight_decay"]) == ("weights", 0.02, 1e-4)
    assert (biases["name"], biases["lr"], biases["weight_decay"]) == ("biases", 0.04, 0.0)
    assert [len(weights["params"]), len(biases["params"])] == [3, 3]


def test_frozen_parameters_are_left_out() -> None:
    model = model_with_norm()
    model[0].requires_grad_(False)
    assert [len(group["params"]) for group in groups_of(model)] == [2, 2]


def test_a_model_without_biases_can_be_trained() -> None:
    model = nn.Linear(2, 1, bias=False)
    optimizer = sgd(groups_of(model), momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert [group["name"] for group in optimizer.param_groups] == ["weights", "biases"]


def test_a_wholly_frozen_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"every parameter of the model is frozen.*requires_grad"):
        groups_of(model_with_norm().requires_grad_(False))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_zero_momentum_buffers_change_no_step(momentum: float) -> None:
    ours, plain = model_with_norm(), model_with_norm()
    our_optimizer = sgd(groups_of(ours), momentum=momentum)
    plain_optimizer = torch.optim.SGD(groups_of(plain), momentum=momentum, fused=True)
    for _ in range(3):
        for model, optimizer in ((ours, our_optimizer), (plain, plain_optimizer)):
            optimizer.zero_grad()
            model(torch.linspace(-1, 1, 12).view(1, 3, 2, 2)).square().sum().backward()
            optimizer.step()
    for parameter, expected in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(parameter, expected)


def test_momentum_starts_at_zero_and_is_there_to_be_loaded_into() -> None:
    model = model_with_norm()
    optimizer = sgd(groups_of(model), momentum=0.9)
    buffers = [state["momentum_buffer"] for state in optimizer.state.values()]
    assert len(buffers) == 6
    assert not any(buffer.any() for buffer in buffers)
    saved = optimizer.state_dict()
    saved["state"][0]["momentum_buffer"] = torch.ones(4, 3, 1, 1)
    optimizer.load_state_dict(saved)
    assert optimizer.state[model[0].weight]["momentum_buffer"].all()


def test_both_optimizers_are_fused_and_can_skip() -> None:
    groups = groups_of(model_with_norm())
    assert can_skip(sgd(groups, momentum=0.9))
    assert can_skip(adamw(groups, betas=(0.9, 0.999)))


def test_adamw_keeps_its_betas_and_the_groups_rates() -> None:
    optimizer = adamw(groups_of(model_with_norm()), betas=(0.8, 0.95))
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.95)}
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.04]

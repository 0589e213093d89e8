import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from detengine.solver.optimizers import adamw, sgd
from detengine.solver.precision import Precision, can_skip, clear_gradients, note_nonfinite

NAN, INF = float("nan"), float("inf")
OPTIMIZERS = ["sgd", "adamw", "unfused"]
CLIPS = [None, 0.5]
CPU = torch.device("cpu")


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


def optimizer_of(model: nn.Module, kind: str) -> Optimizer:
    groups = [{"name": "weights", "params": list(model.parameters()), "lr": 0.1}]
    if kind == "sgd":
        return sgd(groups, momentum=0.9)
    if kind == "adamw":
        return adamw(groups, betas=(0.9, 0.999))
    return torch.optim.SGD(groups, momentum=0.9)


def train(
    model: nn.Module,
    optimizer: Optimizer,
    factor: float,
    precision: Precision | None = None,
    clip_norm: float | None = None,
) -> Tensor:
    """One step on a fixed input; the factor makes its gradients what they are to be."""
    precision = precision or Precision()
    optimizer.zero_grad()
    with precision.autocast(CPU):
        loss = model(torch.linspace(-1, 1, 8).view(2, 4)).float().mean() * factor
    precision.backward(loss)
    return precision.step(optimizer, clip_norm)


def tensors_of(optimizer: Optimizer) -> list[Tensor]:
    """The optimizer's whole state, in order."""
    states: list[dict[str, Any]] = list(optimizer.state_dict()["state"].values())
    return [value for state in states for value in state.values() if isinstance(value, Tensor)]


def weights_of(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def assert_equal(ours: list[Tensor], expected: list[Tensor]) -> None:
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


@pytest.mark.parametrize("clip_norm", CLIPS)
@pytest.mark.parametrize("factor", [NAN, INF, -INF])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_skipped_first_step_leaves_no_trace(
    kind: str, factor: float, clip_norm: float | None
) -> None:
    model = small_model()
    optimizer = optimizer_of(model, kind)
    before = weights_of(model)
    assert train(model, optimizer, factor, clip_norm=clip_norm).tolist() == [1.0]
    assert_equal(weights_of(model), before)
    assert all(not value.any() for value in tensors_of(optimizer))

    fresh_model = small_model()
    fresh = optimizer_of(fresh_model, kind)
    assert train(model, optimizer, 1.0, clip_norm=clip_norm).tolist() == [0.0]
    train(fresh_model, fresh, 1.0, clip_norm=clip_norm)
    assert_equal(weights_of(model), weights_of(fresh_model))
    assert_equal(tensors_of(optimizer), tensors_of(fresh))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_skipped_later_step_leaves_no_trace(kind: str) -> None:
    model = small_model()
    optimizer = optimizer_of(model, kind)
    train(model, optimizer, 1.0)
    weights, state = weights_of(model), copy.deepcopy(tensors_of(optimizer))
    train(model, optimizer, NAN)
    assert_equal(weights_of(model), weights)
    assert_equal(tensors_of(optimizer), state)


def test_one_bad_value_in_one_gradient_skips_the_whole_step() -> None:
    model = small_model()
    optimizer = optimizer_of(model, "sgd")
    before = weights_of(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model[2].bias.grad[0] = NAN
    assert Precision().step(optimizer).tolist() == [1.0]
    assert_equal(weights_of(model), before)


@pytest.mark.parametrize("clip_norm", CLIPS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_step_with_finite_gradients_is_skipped_where_its_loss_was_bad(
    kind: str, dtype: str, clip_norm: float | None
) -> None:
    model = small_model()
    optimizer = optimizer_of(model, kind)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = weights_of(model)
    skip, go_on = torch.ones(1), torch.zeros(1)
    precision = Precision(dtype, initial_scale=2.0)
    assert precision.step(optimizer, clip_norm, skip).tolist() == [1.0]
    assert_equal(weights_of(model), before)
    assert precision.step(optimizer, clip_norm, go_on).tolist() == [0.0]
    assert not torch.equal(model[0].weight, before[0])
    assert skip.tolist() == [1.0]
    assert go_on.tolist() == [0.0]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_float32_without_clipping_is_plain_training_to_the_bit(kind: str) -> None:
    ours, plain = small_model(), small_model()
    our_optimizer, plain_optimizer = optimizer_of(ours, kind), optimizer_of(plain, kind)
    for _ in range(3):
        train(ours, our_optimizer, 1.0)
        plain_optimizer.zero_grad()
        plain(torch.linspace(-1, 1, 8).view(2, 4)).mean().backward()
        plain_optimizer.step()
    assert_equal(weights_of(ours), weights_of(plain))


@pytest.mark.parametrize("clip_norm", [1e-3, 1e3])
def test_clipping_is_torchs_clip_grad_norm(clip_norm: float) -> None:
    ours, plain = small_model(), small_model()
    our_optimizer, plain_optimizer = optimizer_of(ours, "sgd"), optimizer_of(plain, "sgd")
    train(ours, our_optimizer, 1.0, clip_norm=clip_norm)
    plain(torch.linspace(-1, 1, 8).view(2, 4)).mean().backward()
    torch.nn.utils.clip_grad_norm_(plain.parameters(), clip_norm)
    plain_optimizer.step()
    assert_equal(weights_of(ours), weights_of(plain))


def test_a_parameter_without_a_gradient_stays() -> None:
    model = small_model()
    optimizer = optimizer_of(model, "sgd")
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = weights_of(model)
    assert Precision().step(optimizer, clip_norm=1.0).tolist() == [0.0]
    assert not torch.equal(model[0].weight, before[0])
    assert_equal(weights_of(model)[1:], before[1:])


def test_gradients_of_several_dtypes_are_all_judged() -> None:
    model = small_model()
    model[2].to(torch.bfloat16)
    optimizer = optimizer_of(model, "sgd")
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert Precision().step(optimizer).tolist() == [0.0]
    model[2].bias.grad[0] = INF
    assert Precision().step(optimizer).tolist() == [1.0]


@pytest.mark.parametrize("clip_norm", CLIPS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_step_with_a_fused_optimizer_reads_nothing_from_the_device(
    kind: str, dtype: str, clip_norm: float | None, host_reads
) -> None:
    model = small_model()
    optimizer = optimizer_of(model, kind)
    assert can_skip(optimizer)
    precision = Precision(dtype)
    with host_reads:
        for factor in (1.0, NAN, 1.0):
            train(model, optimizer, factor, precision, clip_norm)
    assert not host_reads.counts


def test_a_step_with_an_optimizer_that_cannot_skip_reads_one_flag(host_reads) -> None:
    model = small_model()
    optimizer = optimizer_of(model, "unfused")
    assert not can_skip(optimizer)
    with host_reads:
        train(model, optimizer, 1.0)
    assert host_reads.counts == {"item": 1, "_local_scalar_dense": 1}


def test_an_optimizer_that_loaded_the_state_of_an_unfused_one_still_skips() -> None:
    model = small_model()
    optimizer = optimizer_of(model, "sgd")
    unfused = optimizer_of(model, "unfused")
    train(model, unfused, 1.0)
    optimizer.load_state_dict(unfused.state_dict())
    before = weights_of(model)
    assert train(model, optimizer, NAN).tolist() == [1.0]
    assert_equal(weights_of(model), before)


def test_no_flag_stays_on_the_optimizer() -> None:
    model = small_model()
    optimizer = optimizer_of(model, "sgd")
    train(model, optimizer, NAN)
    assert not hasattr(optimizer, "found_inf")


def test_only_float16_scales_the_loss() -> None:
    scaling = {name: Precision(name).scales_loss for name in ("float32", "bfloat16", "float16")}
    assert scaling == {"float32": False, "bfloat16": False, "float16": True}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_computes_the_forward_in_its_dtype_and_keeps_float32_weights(
    dtype: str,
) -> None:
    model = small_model()
    with Precision(dtype).autocast(CPU):
        assert model(torch.ones(1, 4)).dtype == getattr(torch, dtype)
    train(model, optimizer_of(model, "sgd"), 1.0, Precision(dtype))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("clip_norm", CLIPS)
def test_the_loss_scale_does_not_change_the_step(clip_norm: float | None) -> None:
    weights = []
    for scale in (1.0, 2.0**10):
        model = small_model()
        precision = Precision("float16", initial_scale=scale)
        train(model, optimizer_of(model, "sgd"), 1.0, precision, clip_norm)
        weights.append(weights_of(model))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-5)


def test_float16_halves_its_scale_after_an_overflow_and_doubles_it_after_good_steps() -> None:
    model = small_model()
    optimizer = optimizer_of(model, "sgd")
    precision = Precision("float16", initial_scale=1024.0, growth_interval=3)
    scales = []
    for factor in (INF, 1.0, 1.0, INF, 1.0, 1.0, 1.0):
        train(model, optimizer, factor, precision)
        scales.append(precision.state_dict()["scale"])
    assert scales == [512, 512, 512, 256, 256, 256, 512]


def test_a_resumed_scale_goes_on_where_it_was() -> None:
    model = small_model()
    optimizer = optimizer_of(model, "sgd")
    before = Precision("float16", growth_interval=3)
    for factor in (INF, 1.0, 1.0):
        train(model, optimizer, factor, before)
    after = Precision("float16", growth_interval=3)
    after.load_state_dict(before.state_dict())
    train(model, optimizer, 1.0, after)
    assert after.state_dict() == {"scale": 2.0**16, "good_steps": 0}


def test_the_state_of_another_precision_changes_nothing() -> None:
    assert Precision("bfloat16").state_dict() == {}
    plain, scaled = Precision(), Precision("float16")
    plain.load_state_dict(scaled.state_dict())
    scaled.load_state_dict(plain.state_dict())
    assert plain.state_dict() == {}
    assert scaled.state_dict() == {"scale": 2.0**16, "good_steps": 0}


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'int8'.*float32, bfloat16, float16 \(DTYPE\)"):
        Precision("int8")


def test_gradients_are_cleared_as_zero_grad_does_also_of_a_group_that_was_added() -> None:
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = torch.optim.SGD([first], lr=0.1, fused=True)
    first.grad = torch.ones(2)
    clear_gradients(optimizer)
    assert first.grad is None
    optimizer.add_param_group({"params": [second]})
    second.grad = torch.full((2,), INF)
    assert Precision().step(optimizer).item() == 1  # the new one is judged, too
    clear_gradients(optimizer)
    assert second.grad is None


def test_a_group_without_parameters_is_no_obstacle() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([{"params": []}, {"params": [parameter]}], lr=0.1, fused=True)
    parameter.grad = torch.ones(2)
    assert Precision().step(optimizer).item() == 0
    assert parameter.tolist() == pytest.approx([0.9, 0.9])


def test_a_value_that_is_not_finite_is_noted_in_any_dtype_and_nothing_else_is_changed() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        tensors = [torch.ones(3), torch.tensor([1.0, NAN], dtype=dtype)]
        found = torch.zeros(1)
        note_nonfinite(tensors[:1], found)
        assert found.item() == 0
        note_nonfinite(tensors, found)
        assert found.item() == 1
        note_nonfinite(tensors[:1], found)
        assert found.item() == 1
        assert tensors[0].tolist() == [1, 1, 1]
        assert tensors[1][0] == 1

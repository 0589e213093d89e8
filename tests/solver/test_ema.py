import pytest
import torch
from torch import Tensor, nn

from detengine.solver.ema import ModelEMA


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def disturb(model: nn.Module) -> None:
    """Change the parameters, and the buffers as a forward pass does."""
    model.train()
    with torch.no_grad():
        model(torch.randn(8, 3))
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_the_average_is_the_formulas_for_parameters_and_floating_buffers() -> None:
    model = small_model()
    ema = ModelEMA(model, decay=0.9)
    expected = copied(model)
    for _ in range(3):
        disturb(model)
        ema.update()
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = 0.9 * expected[name] + 0.1 * value
    averages = ema.state_dict()["weights"]
    assert averages["1.num_batches_tracked"] == 3
    expected["1.num_batches_tracked"] = torch.tensor(3)
    torch.testing.assert_close(averages, expected)


def test_a_skipped_step_leaves_the_average_as_it_is_and_another_does_not() -> None:
    model, plain_model = (nn.Linear(1, 1, bias=False) for _ in range(2))
    plain_model.load_state_dict(model.state_dict())
    ema, plain = ModelEMA(model, decay=0.9), ModelEMA(plain_model, decay=0.9)
    for weight in (model.weight, plain_model.weight):
        nn.init.constant_(weight, 3.0)
    before = ema.state_dict()["weights"]["weight"].clone()
    ema.update(torch.ones(1))
    assert torch.equal(ema.state_dict()["weights"]["weight"], before)
    ema.update(torch.zeros(1))
    plain.update()
    torch.testing.assert_close(ema.state_dict()["weights"], plain.state_dict()["weights"])


@pytest.mark.parametrize(("warmup_iters", "remains"), [(0, 0.99), (1, 0.1), (2, 0.1 * 2 / 11)])
def test_warm_up_forgets_the_first_weights(warmup_iters: int, remains: float) -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    ema = ModelEMA(model, decay=0.99, warmup_iters=warmup_iters)
    nn.init.zeros_(model.weight)
    for _ in range(max(warmup_iters, 1)):
        ema.update()
    assert ema.state_dict()["weights"]["weight"].item() == pytest.approx(remains)


def test_warm_up_never_exceeds_the_decay() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    ema = ModelEMA(model, decay=0.05, warmup_iters=10)
    nn.init.zeros_(model.weight)
    ema.update()
    assert ema.state_dict()["weights"]["weight"].item() == pytest.approx(0.05)


def test_applied_shows_the_average_and_gives_the_weights_back_to_the_bit() -> None:
    model = small_model()
    ema = ModelEMA(model, decay=0.9)
    disturb(model)
    ema.update()
    before = copied(model)
    averages = {name: value.clone() for name, value in ema.state_dict()["weights"].items()}
    with ema.applied():
        assert_equal(copied(model), averages)
    assert_equal(copied(model), before)
    assert_equal(ema.state_dict()["weights"], averages)


def test_applied_gives_the_weights_back_after_an_exception() -> None:
    model = small_model()
    ema = ModelEMA(model, decay=0.5)
    disturb(model)
    before = copied(model)
    with pytest.raises(KeyError), ema.applied():
        raise KeyError
    assert_equal(copied(model), before)


def test_applied_moves_no_tensor() -> None:
    model = small_model()
    ema = ModelEMA(model, decay=0.5)
    places = [value.data_ptr() for value in model.state_dict().values()]
    with ema.applied():
        assert [value.data_ptr() for value in model.state_dict().values()] == places
    assert [value.data_ptr() for value in model.state_dict().values()] == places


def test_tied_weights_are_exchanged_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    ema = ModelEMA(model, decay=0.5)
    average = model[0].weight.detach().clone()
    nn.init.zeros_(model[0].weight)
    with ema.applied():
        assert torch.equal(model[1].weight, average)
    assert not model[0].weight.any()
    assert set(ema.state_dict()["weights"]) == set(model.state_dict())


def test_a_resumed_average_goes_on_as_if_it_had_never_stopped() -> None:
    model = small_model()
    unbroken = ModelEMA(model, decay=0.9, warmup_iters=5)
    disturb(model)
    unbroken.update()
    resumed = ModelEMA(model, decay=0.9, warmup_iters=5)
    resumed.load_state_dict(unbroken.state_dict())
    disturb(model)
    unbroken.update()
    resumed.update()
    assert resumed.updates == unbroken.updates == 2
    assert_equal(resumed.state_dict()["weights"], unbroken.state_dict()["weights"])


def test_the_saved_average_loads_into_a_model() -> None:
    model, other = small_model(), small_model()
    ema = ModelEMA(model, decay=0.9)
    disturb(model)
    ema.update()
    other.load_state_dict(ema.state_dict()["weights"])
    assert_equal(copied(other), ema.state_dict()["weights"])


def test_the_average_does_not_touch_the_training() -> None:
    model = small_model()
    ema = ModelEMA(model, decay=0.9)
    before = copied(model)
    ema.update()
    assert_equal(copied(model), before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_update_reads_nothing_from_the_device(host_reads) -> None:
    model = small_model()
    ema = ModelEMA(model, decay=0.9, warmup_iters=2)
    with host_reads:
        for _ in range(3):
            ema.update()
        with ema.applied():
            pass
    assert not host_reads.counts


def test_the_average_of_another_model_is_refused() -> None:
    ema = ModelEMA(nn.Linear(2, 3), decay=0.9)
    saved = ModelEMA(nn.Linear(2, 1), decay=0.9).state_dict()
    with pytest.raises(ValueError, match=r"'bias' has shape \(1,\) there and \(3,\) here; 2"):
        ema.load_state_dict(saved)


@pytest.mark.parametrize("method", ["update", "state_dict"])
def test_the_average_is_not_used_while_it_is_applied(method: str) -> None:
    ema = ModelEMA(nn.Linear(2, 1), decay=0.9)
    with ema.applied(), pytest.raises(RuntimeError, match=rf"{method}\(\) was called inside"):
        getattr(ema, method)()


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_that_is_no_average_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"decay is {decay}.*EMA_DECAY"):
        ModelEMA(nn.Linear(1, 1), decay=decay)


def test_a_restarted_average_begins_at_the_weights_as_they_are() -> None:
    model = nn.Linear(2, 3)
    ema = ModelEMA(model, 0.9, warmup_iters=5)
    ema.update()
    with torch.no_grad():
        model.weight.fill_(7.0)
    ema.restart()
    assert torch.equal(ema.state_dict()["weights"]["weight"], model.weight)
    assert ema.updates == 0

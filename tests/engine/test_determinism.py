import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from detengine.engine.determinism import deterministic


def flags() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark


def test_on_cuda_only_deterministic_algorithms_are_used_and_afterwards_all_is_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with deterministic(torch.device("cuda:0"), enabled=True):
        assert flags() == (True, False)
    assert flags() == (False, True)


@pytest.mark.parametrize(("device", "enabled"), [("cpu", False), ("mps", True), ("cuda", False)])
def test_elsewhere_and_switched_off_nothing_is_changed(device: str, enabled: bool) -> None:
    before = flags()
    with deterministic(torch.device(device), enabled=enabled):
        assert flags() == before


def test_on_a_cpu_what_is_added_at_repeated_indices_has_the_same_bits_each_time(
    run_ranks: Callable[..., list[str]],
) -> None:
    """torch adds with several threads in any order: without DETERMINISTIC, hardly ever the same."""
    [printed] = run_ranks(1, Path(__file__).parent / "sums_program.py", 20)
    of_switch = json.loads(printed)
    assert of_switch["on"] == 1
    assert of_switch["off"] > 1


def test_who_had_torch_warn_only_has_it_so_afterwards() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with deterministic(torch.device("cpu"), enabled=True):
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_an_operator_that_only_a_later_batch_reaches_is_named_with_the_key() -> None:
    values, index = torch.zeros(3), torch.tensor([1])
    with (
        pytest.raises(ValueError, match=r"DETERMINISTIC is on, but put_ has no form on cpu .*Repl"),
        deterministic(torch.device("cpu"), enabled=True),
    ):
        values.put_(index, torch.ones(1))


def test_other_errors_are_let_through() -> None:
    with (
        pytest.raises(RuntimeError, match="another"),
        deterministic(torch.device("cpu"), enabled=True),
    ):
        raise RuntimeError("another")

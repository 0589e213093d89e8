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


@pytest.mark.parametrize(("device", "enabled"), [("cpu", True), ("cuda", False)])
def test_elsewhere_and_switched_off_nothing_is_changed(device: str, enabled: bool) -> None:
    before = flags()
    with deterministic(torch.device(device), enabled=enabled):
        assert flags() == before

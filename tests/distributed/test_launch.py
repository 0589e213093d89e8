import pytest
import torch

from detengine.distributed import comm
from detengine.distributed.launch import resolve_device, start_distributed, stop_distributed

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@pytest.fixture
def as_if_from_torchrun(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "1",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_the_cpu_is_always_there() -> None:
    assert resolve_device("cpu") == torch.device("cpu")


def test_auto_takes_what_is_there() -> None:
    best = "cpu"
    if torch.backends.mps.is_available():
        best = "mps"
    if torch.cuda.is_available():
        best = "cuda:0"
    assert resolve_device("auto") == torch.device(best)


@pytest.mark.parametrize("setting", ["gpu", "cuda:", "cuda:x", "CPU", "", "cpu:0", "meta"])
def test_an_unknown_device_is_an_error_that_lists_the_known_ones(setting: str) -> None:
    with pytest.raises(ValueError, match=r"MODEL\.DEVICE is .*; expected auto, cpu, mps, cuda"):
        resolve_device(setting)


@without_gpu
@pytest.mark.parametrize("setting", ["cuda", "cuda:1"])
def test_a_missing_gpu_is_an_error_that_says_what_is_there_and_the_cure(setting: str) -> None:
    reason = r"(built without CUDA|sees 0 GPUs)"
    with pytest.raises(
        ValueError, match=rf"MODEL\.DEVICE is '{setting}'.*{reason}.* cpu, or to auto"
    ):
        resolve_device(setting)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has an Apple GPU")
def test_a_missing_apple_gpu_is_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"'mps', but torch .* finds no Apple GPU.* cpu, or to auto"
    ):
        resolve_device("mps")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_is_the_first_gpu_and_a_gpu_beyond_the_last_is_an_error() -> None:
    assert resolve_device("cuda") == torch.device("cuda:0")
    with pytest.raises(ValueError, match=r"MODEL\.DEVICE is 'cuda:99', but torch .* sees \d+ GPUs"):
        resolve_device("cuda:99")


def test_without_torchrun_there_is_a_device_and_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert start_distributed("cpu") == torch.device("cpu")
    assert comm.get_world_size() == 1
    stop_distributed()


@pytest.mark.parametrize("setting", ["cuda:0", "mps"])
def test_one_device_for_several_processes_is_an_error(as_if_from_torchrun, setting: str) -> None:
    with pytest.raises(ValueError, match=rf"'{setting}', one device for 2 processes of torchrun"):
        start_distributed(setting)


def test_a_rank_whose_gpu_is_missing_says_which(as_if_from_torchrun) -> None:
    as_if_from_torchrun.setenv("LOCAL_RANK", "99")
    with pytest.raises(ValueError, match=r"(process 99 .* takes cuda:99|MODEL\.DEVICE is 'cuda')"):
        start_distributed("cuda")


def test_a_world_size_without_torchrun_is_an_error(as_if_from_torchrun) -> None:
    as_if_from_torchrun.delenv("LOCAL_RANK")
    with pytest.raises(ValueError, match=r"WORLD_SIZE is 2 .* LOCAL_RANK is not set.* torchrun"):
        start_distributed("cpu")


def test_ranks_on_cpus_start_stop_and_may_start_twice(two_ranks) -> None:
    assert [r["device"] for r in two_ranks] == ["cpu", "cpu"]
    assert [r["second_start"] for r in two_ranks] == ["cpu", "cpu"]
    assert [r["world_size_after_stop"] for r in two_ranks] == [1, 1]

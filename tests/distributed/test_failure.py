import pytest
import torch.distributed as dist

from detengine.distributed.failure import is_echo, name_ranks
from detengine.distributed.report import PeerFailedError


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]"),
        RuntimeError("Read error [127.0.0.1]:3: Connection reset by peer"),
        RuntimeError("Timed out waiting 1800000ms for recv operation to complete"),
        RuntimeError("Application timeout caused pair closure"),
        dist.DistBackendError("NCCL communicator was aborted on rank 1."),
        dist.DistNetworkError("Failed to recv, got 0 bytes."),
    ],
)
def test_what_a_lost_rank_leaves_in_a_collective_is_an_echo(error: Exception) -> None:
    assert is_echo(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory"),
        RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed."),
        ConnectionResetError("Connection reset by peer"),
        ValueError("connection closed"),
        PeerFailedError("rank 1 failed: Connection closed by peer"),
    ],
)
def test_what_a_rank_brings_upon_itself_is_no_echo(error: Exception) -> None:
    assert not is_echo(error)


def test_of_many_ranks_the_first_ten_are_named() -> None:
    assert name_ranks(list(range(11))).endswith("8, 9 and 10")
    assert name_ranks(list(range(1024))).endswith("8, 9 and 1014 more")


def test_ranks_are_named_as_one_says_them() -> None:
    assert [name_ranks(ranks) for ranks in ([1], [0, 2], [0, 2, 5])] == [
        "rank 1",
        "ranks 0 and 2",
        "ranks 0, 2 and 5",
    ]

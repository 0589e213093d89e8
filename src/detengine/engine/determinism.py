"""The same bits from the same run, on CUDA too."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic(device: torch.device, *, enabled: bool) -> Iterator[None]:
    """Let torch use deterministic algorithms only; on other devices than CUDA nothing is changed.

    torchvision's RoIAlign then takes its own deterministic form. Enter it before the first matrix
    product: cuBLAS reads CUBLAS_WORKSPACE_CONFIG when it is started, and the variable stays.
    An operation that has no deterministic form raises RuntimeError, which names it.
    """
    if not enabled or device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]

"""The same bits from the same run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from detengine.distributed.report import PeerFailedError

REFUSED = "does not have a deterministic implementation"
"""What torch says of an operator that it will not run."""


@contextmanager
def deterministic(device: torch.device, *, enabled: bool) -> Iterator[None]:
    """Let torch use deterministic algorithms only, on CUDA or a CPU; elsewhere nothing is changed.

    On CUDA torchvision's RoIAlign then takes its own deterministic form. Enter it before the first
    matrix product: cuBLAS reads CUBLAS_WORKSPACE_CONFIG when it is started, and the variable stays.
    On a CPU one operator needs it, and only with several threads: what is added at indices that
    occur several times, as by the backward of `features[indices]`, is added in any order else.
    Raises ValueError, which names it, where an operation has no deterministic form.
    """
    if not enabled or device.type not in ("cuda", "cpu"):
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, PeerFailedError) or REFUSED not in str(error):
            raise
        operator = str(error).partition(REFUSED)[0].strip()
        raise ValueError(
            f"DETERMINISTIC is on, but {operator} has no form on {device.type} that gives the same "
            "bits each time, so that torch refuses it. Replace it in the model, or set "
            "DETERMINISTIC False; with --debug the traceback shows where it is."
        ) from error
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warned)
        torch.backends.cudnn.benchmark = benchmark

"""What tests of our triton kernels need."""

from importlib.metadata import version
from importlib.util import find_spec

import pytest
from torch.torch_version import TorchVersion

_IS_THERE = find_spec("triton") is not None

needs_triton = pytest.mark.skipif(not _IS_THERE, reason="triton is not installed")
needs_triton_compiler = pytest.mark.skipif(
    not _IS_THERE or TorchVersion(version("triton")) < "3.8",
    reason="an older triton that has interpreted compiles no more in the same process "
    "(3.2 was seen to, alone in its process it does compile; 3.8 and 3.9 compile)",
)

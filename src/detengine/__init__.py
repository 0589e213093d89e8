"""The training and inference engine of maskrcnn-benchmark, rebuilt for today's PyTorch.

Importing the package is light: torch is imported when one of the functions below is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detengine.config.load import load_config
    from detengine.loading import load
    from detengine.run import evaluate, train

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "load", "load_config", "train"]

_HOME = {
    "train": "detengine.run",
    "evaluate": "detengine.run",
    "load": "detengine.loading",
    "load_config": "detengine.config.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'detengine' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__

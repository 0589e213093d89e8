"""What a foreign file's tensors are in a model of ours: the value that every reader gives."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put in front of a model's names."""


@dataclass(frozen=True)
class Conventions:
    """What weights were trained with, and a configuration must say too; None where none can tell.

    bgr255: images as BGR in 0..255; False is RGB in [0, 1]. stride_in_1x1: a bottleneck halves the
    map in its first, 1 x 1 convolution; False is in its 3 x 3 one.
    """

    bgr255: bool | None = None
    stride_in_1x1: bool | None = None


@dataclass(frozen=True, eq=False)
class Conversion:
    """Where a file's tensors go.

    format: whose names the file has, for the report; "" if they are the model's own.
    sources: by the model's names, the file's. A tensor may go to several places.
    rearranged: by the model's names, what a source is in the model's layout, where it has another.
    set_aside: by the file's names, why the model needs them not.
    made: by the model's names, tensors that the format leaves out because they are always equal.
    conflicts: sentences that say why the weights do not belong to the model, fit or not.
    """

    sources: dict[str, str]
    format: str = ""
    rearranged: dict[str, Tensor] = field(default_factory=dict)
    set_aside: dict[str, str] = field(default_factory=dict)
    made: dict[str, Tensor] = field(default_factory=dict)
    conflicts: list[str] = field(default_factory=list)
    conventions: Conventions | None = None


def own_names(names: Iterable[str]) -> Conversion:
    """The conversion that changes nothing."""
    return Conversion({name: name for name in names})

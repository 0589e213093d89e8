"""What a foreign file's tensors are in a model of ours: the value that every reader gives."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Conversion:
    """Where a file's tensors go.

    format: whose names the file has, for the report; "" if they are the model's own.
    sources: by the model's names, the file's. A tensor may go to several places.
    set_aside: by the file's names, why the model needs them not.
    made: by the model's names, tensors that the format leaves out because they are always equal.
    conflicts: sentences that say why the weights do not belong to the model, fit or not.
    """

    sources: dict[str, str]
    format: str = ""
    set_aside: dict[str, str] = field(default_factory=dict)
    made: dict[str, Tensor] = field(default_factory=dict)
    conflicts: list[str] = field(default_factory=list)


def own_names(names: Iterable[str]) -> Conversion:
    """The conversion that changes nothing."""
    return Conversion({name: name for name in names})

"""Named numbers that stay on their device, in one tensor instead of many."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor


class Scalars(Mapping[str, Tensor]):
    """A step's numbers by name, read like a dict of tensors of one number, without a graph.

    stacked: float[N], a copy of the values in the order of `names`, which are unique. One copy, one
    tensor to keep and one transfer to the host serve them all.
    """

    __slots__ = ("names", "stacked")

    def __init__(self, names: Sequence[str], stacked: Tensor) -> None:
        self.names = tuple(names)
        self.stacked = stacked

    @classmethod
    def of(cls, values: Mapping[str, Tensor]) -> "Scalars":
        """values: at least one, each a tensor of one number, on one device.

        Of several dtypes they become the one that torch promotes them to.
        """
        scalars = [each if each.dim() == 0 else each.reshape(()) for each in values.values()]
        return cls(tuple(values), torch.stack(scalars).detach())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        return self.stacked[self.names.index(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __add__(self, other: "Scalars") -> "Scalars":
        """The sum by name; what one of them lacks counts as 0 there."""
        if self.names == other.names:
            return Scalars(self.names, self.stacked + other.stacked)
        sums = dict(self.items())
        for name, value in other.items():
            sums[name] = sums[name] + value if name in sums else value
        return Scalars.of(sums)

    def numbers(self) -> dict[str, float]:
        """Read from the device."""
        return dict(zip(self.names, self.stacked.tolist(), strict=True))

"""Meters of a run's numbers, which never make the loop wait for the device."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from ctypes import c_float
from dataclasses import dataclass
from itertools import islice, zip_longest
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from detengine.distributed.comm import all_gather, get_world_size
from detengine.monitor.scalars import Scalars

_MAX_PENDING = 64
"""Updates kept on the device: more than those of an ordinary log period."""


@dataclass(frozen=True)
class Share:
    """What one rank put into a meter since the ranks last agreed. values: the last of them."""

    count: int
    total: float
    values: list[float]


class SmoothedValue:
    """A series of numbers: its last `window_size` ones, and the average of all.

    Before the first update everything but `count` (0) and `total` (0.0) is nan. A value that is not
    a number is kept: the median and the averages that contain it are nan.
    """

    def __init__(self, window_size: int = 20) -> None:
        self._window: deque[float] = deque(maxlen=window_size)
        self._agreed_count, self._agreed_total = 0, 0.0
        self._own_count, self._own_total = 0, 0.0

    def update(self, value: float) -> None:
        self.extend([value])

    def extend(self, values: Sequence[float]) -> None:
        """Take several, the oldest first: as so many updates."""
        self._window.extend(values)
        self._own_count += len(values)
        for value in values:  # one after the other: `sum` rounds otherwise in later Pythons
            self._own_total += value

    @property
    def count(self) -> int:
        return self._agreed_count + self._own_count

    @property
    def total(self) -> float:
        return self._agreed_total + self._own_total

    @property
    def median(self) -> float:
        """Of the window; of an even number of values the lower middle one, as `torch.median`.

        In single precision, so that it is printed as the predecessor printed it.
        """
        if not self._window or any(math.isnan(value) for value in self._window):
            return math.nan
        return c_float(sorted(self._window)[(len(self._window) - 1) // 2]).value

    @property
    def avg(self) -> float:
        """The mean of the window."""
        return sum(self._window) / len(self._window) if self._window else math.nan

    @property
    def global_avg(self) -> float:
        """The mean of all values."""
        return self.total / self.count if self.count else math.nan

    @property
    def value(self) -> float:
        """The last value."""
        return self._window[-1] if self._window else math.nan

    def own_share(self) -> Share:
        """What came since the ranks last agreed, as far as the window reaches."""
        values = list(self._window)
        start = max(0, len(values) - self._own_count)
        return Share(self._own_count, self._own_total, values[start:])

    def agree(self, shares: Sequence[Share]) -> None:
        """Replace this rank's share by the mean of all ranks'. Equal on all ranks afterwards.

        Values are paired from the newest on; a rank that has none leaves the mean to the others.
        """
        for _ in self.own_share().values:
            self._window.pop()
        newest_first = zip_longest(*(reversed(share.values) for share in shares))
        self._window.extend(reversed([_mean_of_present(values) for values in newest_first]))
        count = max(share.count for share in shares)
        mean = sum(share.total for share in shares) / sum(share.count for share in shares)
        self._agreed_count += count
        self._agreed_total += mean * count
        self._own_count, self._own_total = 0, 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"window": list(self._window), "count": self.count, "total": self.total}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._window = deque(state["window"], maxlen=self._window.maxlen)
        self._agreed_count, self._agreed_total = state["count"], state["total"]
        self._own_count, self._own_total = 0, 0.0


def _mean_of_present(values: Sequence[float | None]) -> float:
    present = [value for value in values if value is not None]
    return sum(present) / len(present)


class MetricLogger:
    """Named meters, read as `meters.loss` or `meters["loss"]`, printed by `str(meters)`.

    `update` leaves tensors on their device; reading any meter fetches all that wait, in one
    transfer for each device and dtype, and never communicates. The 65th waiting update fetches too.
    """

    def __init__(self, delimiter: str = "\t") -> None:
        self.delimiter = delimiter
        self._meters: dict[str, SmoothedValue] = {}
        self._pending: list[_Update] = []

    def update(self, scalars: Scalars | None = None, /, **values: float | Tensor) -> None:
        """Add one value to each named meter: numbers, or tensors of one element.

        scalars: further values, as they are on the device; they are not copied again.
        Raises ValueError for a tensor of more elements, TypeError for anything else.
        """
        numbers: dict[str, float] = {}
        tensors: dict[str, Tensor] = {}
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[name] = value
            else:
                numbers[name] = value if type(value) is float else _number(name, value)
        on_devices = [] if scalars is None else [scalars]
        if tensors:
            on_devices += _by_kind(tensors)
        if len(self._pending) >= _MAX_PENDING:
            self._fetch()
        names = tuple(values) if scalars is None else (*scalars.names, *values)
        self._pending.append(_Update(names, numbers, on_devices))

    @property
    def meters(self) -> dict[str, SmoothedValue]:
        """All meters by name, in the order of their first appearance."""
        self._fetch()
        return self._meters

    def __getitem__(self, name: str) -> SmoothedValue:
        return self.meters[name]

    def __getattr__(self, name: str) -> SmoothedValue:
        if not name.startswith("_") and name in self.meters:  # "_...": absent while unpickling
            return self._meters[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __str__(self) -> str:
        return self.delimiter.join(
            f"{name}: {meter.median:.4f} ({meter.global_avg:.4f})"
            for name, meter in self.meters.items()
        )

    def reduce_across_ranks(self, rider: Any = None) -> list[Any]:
        """Average over the ranks what came since the last call; one collective, on all ranks.

        Afterwards the meters are equal on all ranks, also where some lacked a meter or an update.
        rider: whatever else the ranks have to tell each other. Returns that of every rank.
        """
        if get_world_size() == 1:
            return [rider]
        shares = {name: meter.own_share() for name, meter in self.meters.items()}
        own = {name: share for name, share in shares.items() if share.count}
        of_ranks, riders = zip(*all_gather((own, rider)), strict=True)
        for name in dict.fromkeys(name for of_rank in of_ranks for name in of_rank):
            meter = self._meters.setdefault(name, SmoothedValue())
            meter.agree([of_rank[name] for of_rank in of_ranks if name in of_rank])
        return list(riders)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Plain numbers, for a checkpoint. Equal on all ranks right after `reduce_across_ranks`."""
        return {name: meter.state_dict() for name, meter in self.meters.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Become the meters of `state`; what was there before is gone."""
        self._pending, self._meters = [], {}
        for name, of_meter in state.items():
            self._meters[name] = SmoothedValue()
            self._meters[name].load_state_dict(of_meter)

    def _fetch(self) -> None:
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        fetched = iter(_to_host([each.stacked for update in pending for each in update.on_devices]))
        series: dict[str, list[float]] = {}
        for update in pending:
            numbers = update.numbers
            for scalars in update.on_devices:
                numbers |= zip(scalars.names, next(fetched), strict=True)
            for name in update.names:
                series.setdefault(name, []).append(numbers[name])
        for name, values in series.items():
            self._meters.setdefault(name, SmoothedValue()).extend(values)


class _Update(NamedTuple):
    """One update as it waits. names: in their order; numbers: those that are on the host."""

    names: tuple[str, ...]
    numbers: dict[str, float]
    on_devices: list[Scalars]


def _by_kind(tensors: Mapping[str, Tensor]) -> list[Scalars]:
    """Those of each device and dtype together."""
    of_kind: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}
    for name, value in tensors.items():
        _raise_if_not_one(name, value)
        of_kind.setdefault((value.device, value.dtype), {})[name] = value
    return [Scalars.of(each) for each in of_kind.values()]


def _raise_if_not_one(name: str, value: Tensor) -> None:
    if value.numel() != 1:
        raise ValueError(
            f"meter {name!r} got a tensor of shape {tuple(value.shape)}, but takes one number "
            "an update; log its mean() or its sum()."
        )


def _number(name: str, value: Any) -> float:
    if not isinstance(value, Real):
        raise TypeError(
            f"meter {name!r} got {value!r} of type {type(value).__name__}, but takes a number or a "
            "tensor of one element."
        )
    return float(value)


def _to_host(tensors: Sequence[Tensor]) -> list[list[float]]:
    """The numbers of each, of one dimension; one transfer for each device and dtype."""
    places: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, tensor in enumerate(tensors):
        places.setdefault((tensor.device, tensor.dtype), []).append(place)
    numbers: list[list[float]] = [[]] * len(tensors)
    for of_kind in places.values():
        fetched = map(float, torch.cat([tensors[place] for place in of_kind]).tolist())
        for place in of_kind:
            numbers[place] = list(islice(fetched, len(tensors[place])))
    return numbers

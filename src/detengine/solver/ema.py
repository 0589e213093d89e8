"""The exponential moving average of a model's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class ModelEMA:
    """Averages what the model's `state_dict` holds: `average = d * average + (1 - d) * weights`.

    Parameters and floating buffers are averaged, integer buffers copied. d is `decay`, but in the
    first `warmup_iters` updates at most (1 + n) / (10 + n) after n of them, so that the weights of
    the very beginning do not stay in the average (TensorFlow's ExponentialMovingAverage).
    Make it after the model has gone to its device: it holds the model's tensors.
    Raises ValueError if decay is not in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float, warmup_iters: int = 0) -> None:
        if not 0 <= decay < 1:
            raise ValueError(
                f"decay is {decay}, but must be at least 0 and below 1 (SOLVER.EMA_DECAY)"
            )
        self.decay = decay
        self.warmup_iters = warmup_iters
        self.updates = 0
        self._is_applied = False
        state = model.state_dict(keep_vars=True)
        named = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        # A tied weight is one tensor under several names, and so is its average.
        self._weights = list({id(weight): weight for weight in named.values()}.values())
        self._averages = [weight.detach().clone() for weight in self._weights]
        average_of = dict(zip(map(id, self._weights), self._averages, strict=True))
        self._named_averages = {name: average_of[id(weight)] for name, weight in named.items()}

    @torch.no_grad()
    def update(self, skipped: Tensor | None = None) -> None:
        """Take the weights as they are now into the average. Nothing is read from the device.

        skipped: float32[1] on the weights' device; where it is not 0, no step was made, and the
        average stays as it is. Such a step counts among the `warmup_iters`.
        """
        self._raise_if_applied("update()")
        pairs = list(zip(self._averages, self._weights, strict=True))
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        counting = [pair for pair in pairs if not pair[0].is_floating_point()]
        if floating:
            averages, weights = zip(*floating, strict=True)
            if skipped is None:
                torch._foreach_lerp_(averages, weights, 1 - self._decay_now())
            else:  # the same, with a factor that the host does not know
                changes = torch._foreach_sub(weights, averages)
                torch._foreach_mul_(changes, ((skipped == 0) * (1 - self._decay_now())).squeeze())
                torch._foreach_add_(averages, changes)
        if counting:
            averages, weights = zip(*counting, strict=True)
            torch._foreach_copy_(averages, weights)
        self.updates += 1

    @torch.no_grad()
    def restart(self) -> None:
        """Begin again from the weights as they are, after others were loaded into the model."""
        self._raise_if_applied("restart()")
        torch._foreach_copy_(self._averages, self._weights)
        self.updates = 0

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside, and its own again afterwards, come what may.

        They are exchanged in place, tensor by tensor, so that nothing that holds them notices.
        """
        self._raise_if_applied("applied()")
        self._exchange()
        self._is_applied = True
        try:
            yield
        finally:
            self._exchange()
            self._is_applied = False

    def state_dict(self) -> dict[str, Any]:
        """`weights` has the names of the model's own state_dict, and can be loaded as one."""
        self._raise_if_applied("state_dict()")
        return {"updates": self.updates, "weights": dict(self._named_averages)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a saved average. Raises ValueError if names or shapes are not the model's."""
        self._raise_if_applied("load_state_dict()")
        ours = {name: tuple(average.shape) for name, average in self._named_averages.items()}
        saved = {name: tuple(weight.shape) for name, weight in state["weights"].items()}
        if ours != saved:
            names = sorted({name for name, _ in ours.items() ^ saved.items()})
            raise ValueError(
                f"the saved average is of another model: {names[0]!r} has shape "
                f"{saved.get(names[0])} there and {ours.get(names[0])} here; {len(names)} tensors "
                "differ in all. Resume with the model that was averaged."
            )
        for name, average in self._named_averages.items():
            average.copy_(state["weights"][name])
        self.updates = state["updates"]

    def _decay_now(self) -> float:
        if self.updates >= self.warmup_iters:
            return self.decay
        return min(self.decay, (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def _exchange(self) -> None:
        for weight, average in zip(self._weights, self._averages, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    def _raise_if_applied(self, what: str) -> None:
        if self._is_applied:
            raise RuntimeError(
                f"ModelEMA.{what} was called inside applied(), where average and weights have "
                "changed places; call it outside"
            )

"""Mixed precision, and the one place where an optimizer steps: unscaled, clipped, or skipped.

The gradients are judged on the device, and a step that is not finite is skipped there, without the
host waiting to learn of it: that is what torch's fused optimizers do with their `found_inf`.
"""

import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

SKIPPING_DEVICES = ("cpu", "cuda")
"""Where fused optimizers honour `found_inf` in every supported torch; those of MPS long did not."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_GROWTH_FACTOR, _BACKOFF_FACTOR = 2.0, 0.5  # torch.amp.GradScaler's


class Precision:
    """How a run computes: "float32", or autocast to "bfloat16" or "float16".

    float16 scales the loss so that small gradients do not vanish: by half after a step whose
    gradients overflowed, which is skipped, and by twice after `growth_interval` good ones
    (Micikevicius et al., "Mixed Precision Training"; the numbers are torch.amp.GradScaler's).
    Raises ValueError for another dtype.
    """

    def __init__(
        self,
        dtype: str = "float32",
        *,
        initial_scale: float = 2.0**16,
        growth_interval: int = 2000,
    ) -> None:
        if dtype not in _DTYPES:
            raise ValueError(f"dtype is {dtype!r}, but must be one of {', '.join(_DTYPES)} (DTYPE)")
        self.dtype = dtype
        self._growth_interval = growth_interval
        self._scale = torch.tensor(initial_scale if self.scales_loss else 1.0)
        self._good_steps = torch.tensor(0, dtype=torch.int32)

    @property
    def scales_loss(self) -> bool:
        """Whether the loss is scaled, so that a skipped step now and then is ordinary."""
        return self.dtype == "float16"

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Around the forward pass, the loss included. Nothing at all for float32."""
        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(device.type, dtype=_DTYPES[self.dtype])

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the loss, scaled if the precision asks for it. Outside autocast."""
        if self.scales_loss:
            self._move_scale(loss.device)
            loss = loss * self._scale
        torch.autograd.backward(loss)

    def step(
        self,
        optimizer: Optimizer,
        clip_norm: float | None = None,
        skip: Tensor | None = None,
        *,
        losses: Tensor | None = None,
    ) -> Tensor:
        """Unscale and clip the gradients and step, unless one of them is not finite.

        clip_norm: the largest total 2-norm of all gradients; None clips nothing.
        skip: float32[1] on the parameters' device; above 0 skips the step whatever the gradients.
        losses: on the parameters' device and without a graph; they have to be finite, too.
        Returns found_inf, float32[1] on the parameters' device: 1.0 if the step was skipped, then
        neither weights nor the optimizer's state have changed. Nothing is read from the device,
        except with an optimizer that cannot skip by itself (see `can_skip`): there one flag a step
        is, and the host waits for the device.
        """
        parameters, skips = _looked_up(optimizer)
        found_inf = torch.zeros(1, device=parameters[0].device) if skip is None else skip.clone()
        gradients = [grad for each in parameters if (grad := each.grad) is not None]
        judged = [] if losses is None else [losses]
        if self.scales_loss:
            self._move_scale(found_inf.device)
            note_nonfinite(gradients, found_inf, self._scale.reciprocal())
        elif clip_norm is None:
            judged += gradients
        if clip_norm is not None:
            norm = get_total_norm(gradients)
            clip_grads_with_norm_(parameters, clip_norm, norm)
            judged.append(norm)
        note_nonfinite(judged, found_inf)
        _step_unless(found_inf, optimizer, skips)
        if self.scales_loss:
            torch._amp_update_scale_(
                self._scale,
                self._good_steps,
                found_inf,
                _GROWTH_FACTOR,
                _BACKOFF_FACTOR,
                self._growth_interval,
            )
        return found_inf

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: the scale and its good steps, with float16; else nothing."""
        if not self.scales_loss:
            return {}
        return {"scale": self._scale.item(), "good_steps": int(self._good_steps.item())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a saved scale; the state of another precision changes nothing."""
        if self.scales_loss and state:
            self._scale.fill_(state["scale"])
            self._good_steps.fill_(state["good_steps"])

    def _move_scale(self, device: torch.device) -> None:
        if self._scale.device != device:
            self._scale = self._scale.to(device)
            self._good_steps = self._good_steps.to(device)


def clear_gradients(optimizer: Optimizer) -> None:
    """Forget the gradients of the step before: optimizer.zero_grad() without its profiling."""
    for parameter in _looked_up(optimizer)[0]:
        parameter.grad = None


def note_nonfinite(tensors: list[Tensor], found: Tensor, factor: Tensor | None = None) -> None:
    """Set found, float32[1], to 1 if a value is not finite; else leave it. Nothing is read.

    tensors: floating, on the device of `found`; they are multiplied by the factor in place.
    """
    if factor is None:
        factor = _one_on(found.device)
    dtypes = {tensor.dtype for tensor in tensors}
    for dtype in dtypes:
        of_dtype = (
            tensors if len(dtypes) == 1 else [each for each in tensors if each.dtype == dtype]
        )
        torch._amp_foreach_non_finite_check_and_unscale_(of_dtype, found, factor)


@functools.cache
def _one_on(device: torch.device) -> Tensor:
    return torch.ones((), device=device)


def can_skip(optimizer: Optimizer) -> bool:
    """Whether the optimizer skips on the device: a fused one of torch's, on a CPU or on CUDA.

    Any other makes the host wait for a flag in each step of `Precision`.
    """
    return getattr(optimizer, "_step_supports_amp_scaling", False) and all(
        group.get("fused") and all(each.device.type in SKIPPING_DEVICES for each in group["params"])
        for group in optimizer.param_groups
    )


_LOOKED_UP: "WeakKeyDictionary[Optimizer, tuple[Any, list[Tensor], bool]]" = WeakKeyDictionary()


def _looked_up(optimizer: Optimizer) -> tuple[list[Tensor], bool]:
    """An optimizer's parameters, and `can_skip`; asked anew when its groups have changed."""
    groups = [(group["params"], group.get("fused")) for group in optimizer.param_groups]
    state = [(len(own), id(own[0]) if own else None, fused) for own, fused in groups]
    known = _LOOKED_UP.get(optimizer)
    if known is None or known[0] != state:
        parameters = [each for own, _ in groups for each in own]
        known = _LOOKED_UP[optimizer] = state, parameters, can_skip(optimizer)
    return known[1], known[2]


def _step_unless(found_inf: Tensor, optimizer: Optimizer, skips: bool) -> None:
    if skips:
        optimizer.found_inf = found_inf.squeeze()  # type: ignore[attr-defined]  # torch's contract
        try:
            optimizer.step()
        finally:
            del optimizer.found_inf  # type: ignore[attr-defined]
    elif not found_inf.item():
        optimizer.step()

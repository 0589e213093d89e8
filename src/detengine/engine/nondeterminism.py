"""Which operators of a model have no deterministic form, found out before the first step."""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from detengine.data.randomness import seeded
from detengine.distributed.comm import all_gather
from detengine.engine.determinism import REFUSED
from detengine.engine.model_mode import model_mode
from detengine.engine.nondeterministic_operators import KNOWN, ON_CUDA
from detengine.engine.trainer import accumulate_gradients
from detengine.engine.validation_loss import buffers_kept
from detengine.solver.precision import Precision
from detengine.structures.batch import Batch

logger = logging.getLogger("detengine.run")

_NAMED = 10
"""At most so many operators are named."""


class Operator(NamedTuple):
    """What a model calls. name: as torch has it, such as aten::grid_sampler_2d_backward.

    module: where, by its name in the model. of: of a backward's operator, what it is the backward
    of, else "".
    """

    name: str
    module: str
    of: str = ""

    def __str__(self) -> str:
        where = f"in {self.module}" if self.module else "in the model itself"
        backward = f", in the backward of {self.of}" if self.of else ""
        instead = f" (instead: {ON_CUDA[self.name].instead})" if self.name in ON_CUDA else ""
        return f"{self.name} {where}{backward}{instead}"


class Found(NamedTuple):
    """nondeterministic: operators, with how often they are called. unknown: those of packages that
    torch knows nothing about.
    """

    nondeterministic: Counter[Operator]
    unknown: Counter[Operator]


def raise_if_not_deterministic(
    model: nn.Module, loader: Any, device: torch.device, precision: Precision, *, scored: bool
) -> None:
    """Try a step on the loader's first batch, of which nothing stays; called by all ranks.

    scored: try an evaluation of it, too. Nothing is done unless torch is told to be deterministic
    (`deterministic`). What only another batch reaches is not found here; torch refuses it when it
    comes. Raises ValueError with all such operators, the modules that they are in, and what to use
    instead.
    """
    is_asked_for = torch.are_deterministic_algorithms_enabled()
    if not is_asked_for or torch.is_deterministic_algorithms_warn_only_enabled():
        return
    keys = next(iter(loader.batch_sampler), None)
    if keys is None:  # a finished run has no step left, on all ranks
        return
    batch = Batch(*loader.collate_fn([loader.dataset[key] for key in keys])).to(device)
    found = find_nondeterministic(
        model, batch, precision, on_cuda=device.type == "cuda", scored=scored
    )
    of_ranks = all_gather(found)
    refused = sum((each.nondeterministic for each in of_ranks), Counter[Operator]())
    if refused:
        raise ValueError(
            f"DETERMINISTIC is on, but in the model's step or evaluation there are operators that "
            f"have no form on {device.type} that gives the same bits each time:\n  "
            f"{_listed(refused)}\nReplace them in the model, or set DETERMINISTIC False."
        )
    unknown = sum((each.unknown for each in of_ranks), Counter[Operator]())
    if unknown:
        logger.warning(
            "DETERMINISTIC: torch knows nothing of these operators; ask who made them whether "
            "they give the same bits each time:\n  %s",
            _listed(unknown),
        )


def find_nondeterministic(
    model: nn.Module,
    batch: Batch,
    precision: Precision | None = None,
    *,
    on_cuda: bool,
    scored: bool = True,
) -> Found:
    """What a training step on the batch calls, on the device where both are; and an evaluation.

    Buffers, gradients, modes and generators are afterwards as before. on_cuda: what would not be
    deterministic on CUDA counts, too, wherever it is tried; else what torch refuses on this device.
    scored: whether to evaluate it, too.
    """
    device, precision = batch.images[0].device, precision or Precision()
    found = Found(Counter(), Counter())
    with (
        _told(warn_only=False),
        warnings.catch_warnings(),
        _without_a_trace(model, batch, device),
        module_names(model) as where,
        _Recorder(where, on_cuda=on_cuda, found=found),
    ):
        warnings.filterwarnings("ignore", f".*{REFUSED}")
        with model_mode(model, training=True):
            accumulate_gradients(model, [batch], device, precision)
        if scored:
            with model_mode(model, training=False), torch.inference_mode():
                model(batch.images)
    return found


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what torch refuses, and has it done all the same."""

    def __init__(self, where: Callable[[], str], *, on_cuda: bool, found: Found) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._where = where
        self._on_cuda, self._found = on_cuda, found
        self._made_by: dict[int, Operator] = {}
        """The forward's operators by the sequence number of the node that their backward is."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operator = self._operator(func.name())
        if func.namespace not in KNOWN:
            self._found.unknown[operator] += 1
        entry = ON_CUDA.get(operator.name) if self._on_cuda else None
        is_listed = entry is not None and (entry.when is None or entry.when(*args, **kwargs))
        try:
            result = func(*args, **kwargs)
        except RuntimeError as error:
            if REFUSED not in str(error):
                raise
            is_listed = True
            with _told(warn_only=True):
                result = func(*args, **kwargs)
        if is_listed:
            self._found.nondeterministic[operator] += 1
        return result

    def _operator(self, name: str) -> Operator:
        """A node is made, and numbered, right before the operator whose backward it is."""
        node = torch._C._current_autograd_node()
        if node is None:
            number = torch._C._autograd._get_sequence_nr() - 1
            operator = Operator(name, self._where())
            self._made_by.setdefault(number, operator)
            return operator
        made_by = self._made_by.get(node._sequence_nr())
        return Operator(name, made_by.module, made_by.name) if made_by else Operator(name, "")


@contextmanager
def module_names(model: nn.Module) -> Iterator[Callable[[], str]]:
    """Gives the name of the module whose forward is running, in the block; "" is the model's."""
    inside = [""]
    with ExitStack() as stack:
        for name, module in model.named_modules():
            before = module.register_forward_pre_hook(_entering(inside, name))
            after = module.register_forward_hook(_leaving(inside), always_call=True)
            stack.callback(before.remove)
            stack.callback(after.remove)
        yield lambda: inside[-1]


def _entering(inside: list[str], name: str) -> Callable[..., None]:
    return lambda *_: inside.append(name)


def _leaving(inside: list[str]) -> Callable[..., None]:
    def leave(*_: Any) -> None:
        inside.pop()

    return leave


@contextmanager
def _without_a_trace(model: nn.Module, batch: Batch, device: torch.device) -> Iterator[None]:
    """A block after which the model and the generators are as before; nothing in it is compiled."""
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    with ExitStack() as stack:
        stack.enter_context(buffers_kept(model))
        stack.enter_context(seeded(*batch.image_ids, device=device))
        if any(module._compiled_call_impl is not None for module in model.modules()):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            for parameter, _ in gradients:
                parameter.grad = None
            yield
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient


@contextmanager
def _told(*, warn_only: bool) -> Iterator[None]:
    """A block in which torch refuses what is not deterministic, or warns of it."""
    enabled = torch.are_deterministic_algorithms_enabled()
    before = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=before)


def _listed(operators: Counter[Operator]) -> str:
    lines = [
        f"{operator}, {count} times" if count > 1 else str(operator)
        for operator, count in operators.most_common(_NAMED)
    ]
    more = len(operators) - len(lines)
    return "\n  ".join([*lines, f"and {more} more"] if more else lines)

"""Weights from a file into a model: by name and by shape, with a report of what did not fit."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

# Two parts that torchvision renamed after it had published its detection weights.
_RENAMED = (
    (re.compile(r"rpn\.head\.conv\.(weight|bias)$"), lambda m: f"rpn.head.conv.0.0.{m[1]}"),
    (
        re.compile(r"mask_head\.mask_fcn(\d+)\.(weight|bias)$"),
        lambda m: f"mask_head.{int(m[1]) - 1}.0.{m[2]}",
    ),
)
_COUNTER = "num_batches_tracked"
"""A batch normalisation's own counter: no weight, and absent from many files."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Which of a file's tensors go into a model, and which of either side stay alone.

    matched: by the model's names. wrong_shape: name, shape in the file, shape in the model.
    prefix: put before the file's names to make them the model's.
    """

    matched: dict[str, Tensor]
    missing: list[str]
    unexpected: list[str]
    wrong_shape: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    prefix: str = ""

    @property
    def is_complete(self) -> bool:
        return not (self.missing or self.unexpected or self.wrong_shape)

    def report(self) -> str:
        """One line for a full match, otherwise a paragraph for each kind of misfit."""
        lines = [f"{len(self.matched)} tensors match"]
        if self.prefix:
            lines[0] += f" (the file's names stand under {self.prefix!r} in the model)"
        shapes = [f"{name}: {list(a)} -> {list(b)}" for name, a, b in self.wrong_shape]
        for title, names in (
            ("of another shape (file -> model)", shapes),
            ("of the model, missing in the file", self.missing),
            ("in the file, unknown to the model", self.unexpected),
        ):
            if names:
                lines.append(f"{len(names)} {title}:")
                lines.extend(f"  {name}" for name in names[:10])
                lines.extend([f"  ... and {len(names) - 10} more"] if len(names) > 10 else [])
        return "\n".join(lines)


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module inside DistributedDataParallel and torch.compile."""
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def align(model_state: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> Alignment:
    """Match a file's tensors to a model's by name.

    The names are taken as they are; without the `module.` of DistributedDataParallel or the
    `_orig_mod.` of torch.compile; from torchvision's older to its newer ones; and, where then none
    is the model's, as those of the part of the model that knows most of them (an ImageNet trunk's).
    """
    loaded = _without_wrappers(loaded)
    loaded = {_renamed(name, model_state): tensor for name, tensor in loaded.items()}
    prefix = "" if loaded.keys() & model_state.keys() else _best_prefix(model_state, loaded)
    loaded = {prefix + name: tensor for name, tensor in loaded.items()}
    common = [name for name in model_state if name in loaded]
    fits = [name for name in common if loaded[name].shape == model_state[name].shape]
    return Alignment(
        matched={name: loaded[name] for name in fits},
        missing=[n for n in model_state if n not in loaded and not n.endswith(_COUNTER)],
        unexpected=[n for n in loaded if n not in model_state and not n.endswith(_COUNTER)],
        wrong_shape=[
            (name, tuple(loaded[name].shape), tuple(model_state[name].shape))
            for name in common
            if loaded[name].shape != model_state[name].shape
        ],
        prefix=prefix,
    )


def load_weights(
    model: nn.Module, loaded: Mapping[str, Tensor], *, source: str, strict: bool
) -> Alignment:
    """Copy a file's tensors into the model.

    strict: every tensor of both sides must fit. Otherwise those that fit are taken, and the others
    of the model stay as they were initialised; the caller logs the report. source: the file, for
    the message. Raises ValueError, the model being unchanged, if nothing fits, or if strict and
    anything does not.
    """
    model = unwrapped(model)
    alignment = align(model.state_dict(), loaded)
    if not alignment.matched:
        raise ValueError(
            f"none of the {len(loaded)} tensors in {source} fits this model.\n"
            f"{alignment.report()}\nAre these weights for another kind of model?"
        )
    if strict and not alignment.is_complete:
        cure = (
            "Use the configuration that the checkpoint was trained with (config.yaml beside it)."
            " A head with another first number is one for another number of classes. To train on"
            " from those weights that fit, name the file as MODEL.WEIGHT."
        )
        report = alignment.report()
        raise ValueError(f"the weights in {source} are not this model's.\n{report}\n{cure}")
    model.load_state_dict(alignment.matched, strict=False)
    return alignment


def compare_classes(of_model: Sequence[str], of_file: Sequence[str]) -> str:
    """A table of both sides' classes by label; empty if they are equal or one side has none."""
    if not of_model or not of_file or list(of_model) == list(of_file):
        return ""
    width = max(len("model"), *(len(name) for name in of_model))
    rows = [f"  {'label':>5}  {'model':<{width}}  file"]
    for label in range(1, max(len(of_model), len(of_file)) + 1):
        ours, theirs = (n[label - 1] if label <= len(n) else "-" for n in (of_model, of_file))
        rows.append(f"  {label:>5}  {ours:<{width}}  {theirs}{'' if ours == theirs else '  <--'}")
    return f"The model's {len(of_model)} classes are not the file's {len(of_file)}:\n" + "\n".join(
        rows
    )


def _without_wrappers(loaded: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    for wrapper in ("module.", "_orig_mod."):
        if all(name.startswith(wrapper) for name in loaded):
            loaded = {name.removeprefix(wrapper): tensor for name, tensor in loaded.items()}
    return loaded


def _renamed(name: str, model_state: Mapping[str, Tensor]) -> str:
    for pattern, new_name in _RENAMED:
        renamed = pattern.sub(new_name, name)
        if name not in model_state and renamed in model_state:
            return renamed
    return name


def _best_prefix(model_state: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> str:
    prefixes = Counter(
        ours.removesuffix(theirs)
        for theirs in loaded
        for ours in model_state
        if ours.endswith("." + theirs)
    )
    return prefixes.most_common(1)[0][0] if prefixes else ""

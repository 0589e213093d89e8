"""Weights from a file into a model: by name and by shape, with a report of what did not fit."""

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detengine.checkpoint.classes import ClassNames, ClassRows, rows_by_class
from detengine.checkpoint.conversion import WRAPPERS, Conversion
from detengine.checkpoint.readers import convert

_COUNTER = "num_batches_tracked"
"""A batch normalisation's own counter: no weight, and absent from many files."""
_BODY = "backbone.body."
_LONGEST_LIST = 10
_BOTTLENECK = re.compile(r"backbone\.body\.layer[234]\.0\.conv3\.weight")


@dataclass(frozen=True, eq=False)
class Alignment:
    """Which of a file's tensors go into a model, and which of either side stay alone.

    matched, missing: by the model's names. unexpected: by the file's. wrong_shape: the model's
    name, shape in the file, shape in the model. conversion: how the file's names were read.
    class_rows: what was made of the heads that depend on classes.
    """

    matched: dict[str, Tensor]
    missing: list[str]
    unexpected: list[str]
    wrong_shape: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    conversion: Conversion = field(default_factory=lambda: Conversion({}))
    class_rows: ClassRows = field(default_factory=ClassRows)

    @property
    def is_complete(self) -> bool:
        """Whether every tensor of both sides has its counterpart, or needs none."""
        return not (self.missing or self.unexpected or self.wrong_shape or self.conflicts)

    @property
    def conflicts(self) -> list[str]:
        """Why the weights are not this model's although their names and shapes may fit."""
        return self.conversion.conflicts

    @property
    def fills_whole_parts(self) -> bool:
        """Whether all of the file is used, and each part of the model is filled or left alone.

        So it is where an ImageNet trunk begins a detector, or a detector one with a further head.
        """
        halves = {_part_of(name) for name in self.missing} & set(map(_part_of, self.matched))
        return not (halves or self.unexpected or self.wrong_shape or self.conflicts)

    @property
    def fills_bottlenecks(self) -> bool:
        """Whether the weights are of a ResNet body of ours that has bottlenecks."""
        return any(_BOTTLENECK.fullmatch(name) for name in self.matched)

    def summary(self) -> str:
        """One line: what matches, what the model needs not, and which of its parts are not in."""
        line = self._head()
        for why, count in Counter(self.conversion.set_aside.values()).items():
            line += f"; {count} set aside ({why})"
        if self.missing:
            parts = Counter(map(_part_of, self.missing))
            line += (
                f"; {len(self.missing)} of the model are not in the file and stay as they were "
                f"initialised: {', '.join(f'{count} of {part}' for part, count in parts.items())}"
            )
        return line

    def report(self) -> str:
        """One line for a full match, otherwise a paragraph for each kind of misfit."""
        lines = [self._head()]
        if made := self.conversion.made:
            lines.append(
                f"{len(made)} of them are not in the file, whose format fixes their values"
            )
        lines.extend(self.class_rows.report())
        lines.extend(self.conflicts)
        for title, names in self._lists():
            if names:
                lines.append(f"{len(names)} {title}:")
                lines.extend(f"  {name}" for name in names[:_LONGEST_LIST])
                more = len(names) - _LONGEST_LIST
                lines.extend([f"  ... and {more} more"] if more > 0 else [])
        return "\n".join(lines)

    def _head(self) -> str:
        file_format = self.conversion.format
        return f"{len(self.matched)} tensors match" + (
            f" (the file has {file_format})" if file_format else ""
        )

    def _lists(self) -> Iterator[tuple[str, list[str]]]:
        shapes = [f"{name}: {list(a)} -> {list(b)}" for name, a, b in self.wrong_shape]
        yield "of another shape (file -> model)", shapes
        yield "of the model, missing in the file", self.missing
        yield "in the file, unknown to the model", self.unexpected
        aside = self.conversion.set_aside
        for why in dict.fromkeys(aside.values()):
            yield f"in the file, set aside ({why})", [name for name in aside if aside[name] == why]


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module inside DistributedDataParallel and torch.compile."""
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def align(
    model: nn.Module, loaded: Mapping[str, Tensor], class_names: ClassNames | None = None
) -> Alignment:
    """Match a file's tensors to a model's by name, and with class_names, heads' rows by class.

    The names are taken without the `module.` of DistributedDataParallel and the `_orig_mod.` of
    torch.compile, and read as `readers.convert` reads them: the model's own, those of a part of it
    (an ImageNet trunk), or those of another program.
    """
    loaded = _without_wrappers(loaded)
    conversion = convert(loaded, model)
    model_state = model.state_dict()
    found = {ours: loaded[theirs] for ours, theirs in conversion.sources.items()}
    found |= conversion.rearranged
    found |= conversion.made
    class_rows = rows_by_class(model_state, found, class_names)
    found |= class_rows.merged
    known = {t for ours, t in conversion.sources.items() if ours in model_state}
    known |= conversion.set_aside.keys()
    common = [name for name in model_state if name in found]
    fits = [name for name in common if found[name].shape == model_state[name].shape]
    return Alignment(
        matched={name: found[name] for name in fits},
        missing=[n for n in model_state if n not in found and not n.endswith(_COUNTER)],
        unexpected=[n for n in loaded if n not in known and not n.endswith(_COUNTER)],
        wrong_shape=[
            (name, tuple(found[name].shape), tuple(model_state[name].shape))
            for name in common
            if found[name].shape != model_state[name].shape
        ],
        conversion=conversion,
        class_rows=class_rows,
    )


def load_weights(
    model: nn.Module,
    loaded: Mapping[str, Tensor],
    *,
    source: str,
    strict: bool,
    class_names: ClassNames | None = None,
    check: Callable[[Alignment], None] | None = None,
) -> Alignment:
    """Copy a file's tensors into the model.

    strict: every tensor of both sides must fit. Otherwise those that fit are taken, of heads for
    other class_names the rows of the classes that both have, and the others of the model stay as
    they were initialised; the caller logs the report. source: the file, for the message. check:
    what else may refuse the weights, by an error. Raises ValueError, the model being unchanged, if
    nothing fits, if strict and anything does not, if they are of another body than the model's, or
    if a parameter is not finite.
    """
    model = unwrapped(model)
    alignment = align(model, loaded, None if strict else class_names)
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
    if not strict:
        raise_if_body_is_half_filled(model, alignment, source)
    _raise_if_not_finite(model, alignment, source)
    if check is not None:
        check(alignment)
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


def raise_if_body_is_half_filled(model: nn.Module, alignment: Alignment, source: str) -> None:
    """Raise ValueError if weights fill the backbone's body in part: they are of another body.

    Heads may begin afresh, and so may the offsets of deformable convolutions; a body with a random
    layer in its middle trains to nothing. A whole stage that the model does not have is no misfit.
    """
    body = [name for name in model.state_dict() if name.startswith(_BODY)]
    if not any(name in alignment.matched for name in body):
        return
    lacking = [name for name in alignment.missing if _is_of_body(name)]
    lacking += [name for name, _, _ in alignment.wrong_shape if _is_of_body(name)]
    stages = {_stage_of(name) for name in body}
    surplus = [
        name
        for name in alignment.conversion.sources
        if _is_of_body(name) and name not in body and "conv" in name and _stage_of(name) in stages
    ]
    if lacking or surplus:
        filled = sum(name in alignment.matched for name in body)
        raise ValueError(
            f"the weights in {source} are of another backbone than this model's: they fill "
            f"{filled} of its body's {len(body)} tensors, and have {len(surplus)} convolutions "
            f"that it has not ({(lacking + surplus)[0]} is the first misfit).\n"
            f"{alignment.report()}\nSet MODEL.BACKBONE and MODEL.RESNETS as the weights need it "
            "(CONV_BODY, NORM, widths), or take weights of this body."
        )


def _is_of_body(name: str) -> bool:
    return name.startswith(_BODY) and ".offset." not in name


def _stage_of(name: str) -> str:
    return ".".join(name.split(".")[:3])


def _part_of(name: str) -> str:
    """backbone.fpn, rpn.head, ...; what deforms a body's convolutions is a part by itself."""
    return "the offsets" if ".offset." in name else ".".join(name.split(".")[:2])


def _raise_if_not_finite(model: nn.Module, alignment: Alignment, source: str) -> None:
    """Of the parameters; a buffer of a foreign model may well be infinite."""
    names = {name for name, _ in model.named_parameters()} & alignment.matched.keys()
    spoilt = [name for name in alignment.matched if name in names and _is_spoilt(alignment, name)]
    if spoilt:
        shown = ", ".join(spoilt[:3]) + (", ..." if len(spoilt) > 3 else "")
        raise ValueError(
            f"{len(spoilt)} of the {len(names)} parameters in {source} are not finite (NaN or "
            f"infinite): {shown}. The training that wrote them ran away; take an earlier "
            "checkpoint."
        )


def _is_spoilt(alignment: Alignment, name: str) -> bool:
    return not bool(alignment.matched[name].isfinite().all())


def _without_wrappers(loaded: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Names as the model's own; what a state dict tells of its model's modules is kept."""
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in loaded):
            renamed = OrderedDict((name.removeprefix(wrapper), loaded[name]) for name in loaded)
            renamed.__dict__.update(vars(loaded) if hasattr(loaded, "__dict__") else {})
            loaded = renamed
    return loaded

"""The rows of a head that stand for classes: each taken by its class's name."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

_SHOWN = 10
"""How many names a sentence gives."""


class ClassNames(NamedTuple):
    """Of the labels 1, 2, ... of a model and of a file."""

    of_model: Sequence[str]
    of_file: Sequence[str]


class _Head(NamedTuple):
    """A tensor whose first dimension counts classes.

    what: it predicts. values: rows of one class. may_lack_background: its rows may begin with
    class 1, as where each class is told from the background by itself; then they have a background
    only where both sides have exactly one row more than names, as in torchvision's own RetinaNet.
    """

    what: str
    name: re.Pattern[str]
    values: int = 1
    may_lack_background: bool = False


_HEADS = (
    _Head("class scores", re.compile(r"(?:.*\.)?roi_heads\.box_predictor\.cls_score\.\w+")),
    _Head("box deltas", re.compile(r"(?:.*\.)?roi_heads\.box_predictor\.bbox_pred\.\w+"), 4),
    _Head("masks", re.compile(r"(?:.*\.)?roi_heads\.mask_predictor\.mask_fcn_logits\.\w+")),
    _Head(
        "anchors' class scores",
        re.compile(r"(.*\.)?head\.classification_head\.cls_logits\.(\w+)"),
        may_lack_background=True,
    ),
)


@dataclass(frozen=True, eq=False)
class ClassRows:
    """What was made of the tensors that depend on classes.

    merged: by the model's names, the file's rows where a class is in both, elsewhere the model's
    own. what: those tensors predict. taken, fresh: classes of the model; unused: of the file.
    afresh: sentences on the heads that have other classes, or another number, and no names.
    """

    merged: dict[str, Tensor] = field(default_factory=dict)
    what: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    afresh: list[str] = field(default_factory=list)

    def report(self) -> list[str]:
        """A line for what was taken by name, and one for each kind of head that was not."""
        if not self.merged:
            return self.afresh
        count = len(self.taken) + len(self.fresh)
        line = (
            f"the predictors of {_and(self.what)} were filled by the classes' names: "
            f"{len(self.taken)} of {count} are in the file{_shown(self.taken)}"
        )
        if self.fresh:
            line += f"; {len(self.fresh)} are initialised afresh{_shown(self.fresh)}"
        if self.unused:
            line += f"; {len(self.unused)} of the file are unused{_shown(self.unused)}"
        return [line, *self.afresh]


def rows_by_class(
    state: Mapping[str, Tensor], found: Mapping[str, Tensor], names: ClassNames | None
) -> ClassRows:
    """Sort the rows of a file's heads to the model's classes.

    state: of the model. found: by the model's names, the file's tensors. names: None where one side
    has none, or where rows must stay as they are; then no row is moved. Nor is any where both
    sides have the same names in the same order. The background goes with the background. A name
    that stands twice is nobody's.
    """
    rows = ClassRows()
    if names is not None and list(names.of_model) != list(names.of_file):
        _merge(rows, state, found, names)
    counts: dict[tuple[int, int, str], list[str]] = {}
    for name, head in _heads(state, found):
        ours, theirs = state[name], found[name]
        if name in rows.merged or theirs.shape == ours.shape or theirs.shape[1:] != ours.shape[1:]:
            continue
        unit = head.values * _anchors(name, head, state)
        with_background = "" if head.may_lack_background else ", background included"
        key = (len(theirs) // unit, len(ours) // unit, with_background)
        counts.setdefault(key, []).append(head.what)
    rows.afresh.extend(
        f"the predictors of {_and(list(dict.fromkeys(what)))} are initialised afresh: "
        f"{theirs} classes in the file, {ours} here{with_background}"
        for (theirs, ours, with_background), what in counts.items()
    )
    return rows


def _heads(state: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[tuple[str, _Head]]:
    return [
        (name, head)
        for name in state
        if name in found and state[name].dim() and found[name].dim()
        for head in _HEADS
        if head.name.fullmatch(name)
    ]


def _merge(
    rows: ClassRows, state: Mapping[str, Tensor], found: Mapping[str, Tensor], names: ClassNames
) -> None:
    theirs_of = {
        name: label
        for label, name in enumerate(names.of_file, start=1)
        if names.of_file.count(name) == 1
    }
    pairs = {0: 0} | {
        label: theirs_of[name]
        for label, name in enumerate(names.of_model, start=1)
        if name in theirs_of
    }
    for name, head in _heads(state, found):
        merged = _merged(name, head, state, found[name], names, pairs)
        if merged is not None:
            rows.merged[name] = merged
            rows.what.extend([] if head.what in rows.what else [head.what])
    if rows.merged:
        rows.taken.extend(name for name in names.of_model if name in theirs_of)
        rows.fresh.extend(name for name in names.of_model if name not in theirs_of)
        rows.unused.extend(name for name in names.of_file if name not in names.of_model)


def _merged(
    name: str,
    head: _Head,
    state: Mapping[str, Tensor],
    theirs: Tensor,
    names: ClassNames,
    pairs: Mapping[int, int],
) -> Tensor | None:
    """The model's tensor with the file's rows; None if its rows, or the file's, are no classes.

    pairs: by the model's labels, the file's. So it is where one box is regressed for all classes.
    """
    ours, anchors = state[name].detach().cpu().clone(), _anchors(name, head, state)
    sides = ((ours, len(names.of_model)), (theirs, len(names.of_file)))
    has_background = all(len(tensor) == anchors * (classes + 1) for tensor, classes in sides)
    first = int(head.may_lack_background and not has_background)
    to, source = (_rows_of_labels(tensor, head, anchors, (first, n)) for tensor, n in sides)
    if to is None or source is None or ours.shape[1:] != theirs.shape[1:]:
        return None
    for label, of_file in pairs.items():
        if label in to and of_file in source:
            ours[to[label]] = theirs[source[of_file]].to(ours.dtype)
    return ours


def _rows_of_labels(
    tensor: Tensor, head: _Head, anchors: int, labels: tuple[int, int]
) -> dict[int, list[int]] | None:
    """By label, 0 being the background, the rows of a tensor; None if it has not as many classes.

    labels: the first, which is 0 or 1, and the last.
    A head on anchors has the rows of each anchor together, class by class. One with more rows than
    names, as 81 for fewer classes under the predecessor's conventions, has spare ones at the end.
    """
    count, rest = divmod(len(tensor), head.values * anchors)
    first, last = labels
    if rest or count < last - first + 1:
        return None
    return {
        label: [
            (anchor * count + label - first) * head.values + value
            for anchor in range(anchors)
            for value in range(head.values)
        ]
        for label in range(first, last + 1)
    }


def _anchors(name: str, head: _Head, state: Mapping[str, Tensor]) -> int:
    """Of a cell, told from the deltas beside the scores; 1 for heads on regions."""
    if not head.may_lack_background:
        return 1
    deltas = name.replace("classification_head.cls_logits", "regression_head.bbox_reg")
    return len(state[deltas]) // 4 if deltas in state else 1


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _shown(names: Sequence[str]) -> str:
    if not names:
        return ""
    return f" ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"

"""What weights were trained with, against what the configuration says."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from detengine.checkpoint.align import Alignment
from detengine.checkpoint.conversion import Conventions
from detengine.untrusted.yaml_text import why_unfit

_logger = logging.getLogger("detengine.checkpoint")

_DELTAS = "head.regression_head.bbox_reg.weight"
_BGR255 = "INPUT.TO_BGR255"
_MEAN = "INPUT.PIXEL_MEAN"
_STD = "INPUT.PIXEL_STD"
_STRIDE = "MODEL.RESNETS.STRIDE_IN_1X1"
_BUILDER = "MODEL.BUILDER"
_SAME_MEAN = 5 / 255
"""Of the whole range: ImageNet's means, as programs have them, differ by 1 / 255."""
_SAME_STD = 3.0
"""The factor up to which deviations are alike; between the ranges it is 255, or 57."""

_OF_RANGE: dict[bool, dict[str, list[Any]]] = {
    True: {
        _MEAN: [[102.9801, 115.9465, 122.7717]],
        _STD: [[1.0, 1.0, 1.0], [57.375, 57.12, 58.395]],
    },
    False: {
        _MEAN: [[0.485, 0.456, 0.406]],
        _STD: [[0.229, 0.224, 0.225], [1.0, 1.0, 1.0]],
    },
}
"""By TO_BGR255, what goes with it, the usual first: Detectron's values, also those of its ResNeXts
in detectron2, and torchvision's."""


def conventions_check(
    source: str, known: Conventions | None, *, file_config: str, config: str
) -> Callable[[Alignment], None]:
    """What `load_weights` asks of weights: `raise_if_conventions_differ`, also by their format."""

    def check(alignment: Alignment) -> None:
        raise_if_conventions_differ(
            source,
            [alignment.conversion.conventions, known],
            file_config=file_config,
            config=config,
            has_bottlenecks=alignment.fills_bottlenecks,
        )
        is_of_nobody = not (file_config or known or alignment.conversion.format)
        if config and is_of_nobody and _DELTAS in alignment.matched:
            _warn_of_unknown_origin(source)

    return check


def _warn_of_unknown_origin(source: str) -> None:
    """torchvision's RetinaNet has all of our names and other numbers under two of them."""
    _logger.warning(
        "%s does not say what program its RetinaNet is of, and is taken for detengine's. "
        "torchvision's predicts boxes in another unit and counts the background as a class: of "
        "one of its models write the file by torch.save(model.state_dict(), FILE), which tells.",
        source,
    )


def raise_if_conventions_differ(
    source: str,
    known: Sequence[Conventions | None],
    *,
    file_config: str,
    config: str,
    has_bottlenecks: bool,
) -> None:
    """Raise ValueError, naming the keys and their cure, if weights want what a run does not do.

    known: of the file's format and of its name. file_config, config: of the run that wrote the file
    and of this one, as YAML; "" where there is none. has_bottlenecks: whether the weights fill a
    ResNet's. Means may differ but in range and order. Nothing is known of a BUILDER's model.
    """
    ours = _values(config, "the configuration")
    if not config or ours[_BUILDER] is not None:
        return
    theirs = _values(file_config, source)
    # a file's own configuration knows better than its format: our `.pkl` may want RGB
    wants = [] if file_config else [_wanted_by(each) for each in known if each is not None]
    if theirs[_BUILDER] is None:
        wants.append({key: [theirs[key]] for key in _DIFFER if theirs[key] is not None})
    lines = {
        key: f"  {key} is {ours[key]}, but the weights want {alternatives[0]}{_meaning(key)}"
        for wanted in wants
        for key, alternatives in _misfits(wanted, ours)
        if has_bottlenecks or key != _STRIDE
    }
    if lines:
        raise ValueError(
            f"the weights in {source} were trained by other conventions than the configuration's:\n"
            + "\n".join(lines.values())
            + f"\nSet {' and '.join(lines)} so, or take weights that fit the configuration."
        )


def _meaning(key: str) -> str:
    return {
        _BGR255: " (True: images are BGR in 0..255; False: RGB in 0..1)",
        _STRIDE: " (True: a bottleneck halves the map in its first convolution; False: in its 3x3)",
    }.get(key, "")


def _wanted_by(conventions: Conventions) -> dict[str, list[Any]]:
    """By key, the values that go with the weights, the usual one first."""
    wanted: dict[str, list[Any]] = {}
    if conventions.bgr255 is not None:
        wanted = {_BGR255: [conventions.bgr255], **_OF_RANGE[conventions.bgr255]}
    if conventions.stride_in_1x1 is not None:
        wanted[_STRIDE] = [conventions.stride_in_1x1]
    return wanted


def _misfits(
    wanted: Mapping[str, list[Any]], ours: Mapping[str, Any]
) -> Iterator[tuple[str, list[Any]]]:
    """Where the ranges differ, with the usual values of all that goes with them."""
    same_range = ours[_BGR255] is None or ours[_BGR255] in wanted.get(_BGR255, [ours[_BGR255]])
    for key, values in wanted.items():
        alternatives = values if same_range else values[:1]
        differs = _DIFFER[key]
        if ours[key] is not None and all(differs(each, ours[key]) for each in alternatives):
            yield key, alternatives


def _values(config: str, source: str) -> dict[str, Any]:
    """By key, what a configuration says; None for what it does not. config: YAML."""
    try:
        if reason := why_unfit(config):
            raise ValueError(f"it {reason}")
        tree = yaml.safe_load(config)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"the configuration in {source} is no YAML of ours: {error}.") from error
    return {key: _value(tree, key) for key in (*_DIFFER, _BUILDER)}


def _value(tree: object, key: str) -> Any:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return _triple(tree) if key in (_MEAN, _STD) else tree


def _triple(value: object) -> list[float] | None:
    if not isinstance(value, Sequence) or len(value) != 3:
        return None
    return list(value) if all(isinstance(each, int | float) for each in value) else None


def _differ_plainly(theirs: object, ours: object) -> bool:
    return theirs != ours


def _means_differ(theirs: Sequence[float], ours: Sequence[float]) -> bool:
    """Of three channels: in range, or one is the other from behind (BGR for RGB)."""
    if (max(theirs) > 1) != (max(ours) > 1):
        return True
    scale = 255 if max(ours) > 1 else 1
    behind = list(reversed(theirs))
    return _are_close(behind, ours, scale) and not _are_close(theirs, ours, scale)


def _are_close(one: Sequence[float], other: Sequence[float], scale: float) -> bool:
    return all(abs(a - b) <= _SAME_MEAN * scale for a, b in zip(one, other, strict=True))


def _stds_differ(theirs: Sequence[float], ours: Sequence[float]) -> bool:
    low, high = sorted((sum(theirs), sum(ours)))
    return high > _SAME_STD * low


_DIFFER = {
    _BGR255: _differ_plainly,
    _MEAN: _means_differ,
    _STD: _stds_differ,
    _STRIDE: _differ_plainly,
}

"""Which kind of detector weights are of, told from names."""

from collections.abc import Collection

_BODIES = {"layer1.": "a ResNet", "stages.": "an FBNet"}
"""By the names of their stages."""


def kind_conflict(of_file: Collection[str], of_model: Collection[str]) -> str:
    """A sentence on two detectors of different kinds; empty if they are of one, or one is part.

    Names are ours on both sides. Heads that only one side has make no other kind.
    """
    file_kind, model_kind = kind_of(of_file), kind_of(of_model)
    if not file_kind or not model_kind or file_kind == model_kind:
        return ""
    return f"the weights are of {file_kind}, but the model is {model_kind}"


def kind_of(names: Collection[str]) -> str:
    """Such as "an R-CNN over the feature pyramid of a ResNet"; empty where names tell no whole."""
    body = next(
        (what for part, what in _BODIES.items() if _has(names, f"backbone.body.{part}")), ""
    )
    detector = next(
        (
            what
            for part, what in (("head.classification_head.", "a RetinaNet"), ("rpn.", "an R-CNN"))
            if _has(names, part)
        ),
        "",
    )
    maps = "the feature pyramid" if _has(names, "backbone.fpn.") else "one map"
    return f"{detector} over {maps} of {body}" if body and detector else ""


def _has(names: Collection[str], start: str) -> bool:
    return any(name.startswith(start) for name in names)

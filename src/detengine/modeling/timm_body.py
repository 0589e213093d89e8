"""Any backbone of timm as a body: its maps of the wanted strides."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

_PROBED_SIZE = (128, 192)
"""Height and width of the images whose maps are looked at; no model's own size."""

_ANY_SIZE: tuple[dict[str, Any], ...] = ({"strict_img_size": False}, {"dynamic_img_size": True}, {})
"""How transformers of a fixed size are told to take others: with windows (Swin), without (ViT)."""


class TimmBody(nn.Module):
    """A timm model without its classifier; returns its maps of `strides`, finest first.

    name: as timm.create_model takes it, for example convnext_tiny. The weights are random; the
    norms are the model's own. Only what the maps need is built. Raises ImportError where timm is
    missing, ValueError for a name that it does not know, and for a model that lacks one of the
    strides or takes images of one size only.
    """

    def __init__(self, name: str, strides: Sequence[int]) -> None:
        super().__init__()
        self.name = name
        self.strides = tuple(strides)
        options, known = _look_at(name)
        lacking = [stride for stride in strides if stride not in known]
        if lacking:
            raise ValueError(
                f"MODEL.BACKBONE.CONV_BODY: timm:{name} has maps of the strides "
                f"{sorted(set(known) - {0})}, but levels of the strides {list(strides)} are asked "
                "for; ask for others (MODEL.RPN.ANCHOR_STRIDE, RETINANET.ANCHOR_STRIDES), or take "
                "another model"
            )
        indices = tuple(_last_index(known, stride) for stride in strides)
        self.net = _create(name, out_indices=indices, **options)
        info = self.net.feature_info
        self.channels = tuple(info.channels())
        self.channels_last = getattr(self.net, "output_fmt", "NCHW") == "NHWC"

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: float[N, 3, H, W]. Returns float[N, channels, H / stride, W / stride] each."""
        maps = self.net(images)
        return [each.permute(0, 3, 1, 2) for each in maps] if self.channels_last else list(maps)

    def freeze(self, count: int) -> None:
        """Stop training the first `count` of: the stem, the stages of stride 4, 8, 16, 32.

        The stem is all in front of the stage of stride 4; below 1 nothing stops. Raises ValueError
        where the model's stages cannot be told apart.
        """
        if count < 1:
            return
        modules = list(self.net.named_modules())
        for _, module in modules[: self._end(count, [name for name, _ in modules])]:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)

    def _end(self, count: int, names: Sequence[str]) -> int:
        """How many modules, in timm's order, which is that of the computation, are frozen."""
        stages = {each["reduction"]: each["module"] for each in self.net.feature_info.info}
        wanted = min(2**count, self.strides[-1])
        if count == 1 and wanted not in stages:
            end = min(_positions(names, stages.get(4)), default=0)
        else:
            end = max(_positions(names, stages.get(wanted)), default=-1) + 1
        if end == 0:
            raise ValueError(
                f"MODEL.BACKBONE.FREEZE_CONV_BODY_AT: {count}, but timm:{self.name} has no stage "
                f"that ends at stride {wanted} and can be frozen; set it to 0 to train all"
            )
        return end


def _create(name: str, **options: Any) -> Any:
    return _timm().create_model(name, pretrained=False, features_only=True, **options)


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            "MODEL.BACKBONE.CONV_BODY names a backbone of timm, which is not installed; "
            "`pip install detengine[timm]`"
        ) from error
    return timm


def _look_at(name: str) -> tuple[dict[str, Any], list[int]]:
    """What timm.create_model needs beside the name, and the stride of each map of the model.

    A stride of 0: a map that the model does not return. The model is built and run without storage,
    which shows whether it takes images of any size.
    """
    _raise_if_unknown(name)
    trained_as = _pretrained_cfg(name)
    is_fixed = trained_as is not None and trained_as.fixed_input_size
    reasons = []
    for options in _ANY_SIZE if is_fixed else ({},):
        try:
            return options, _known_strides(name, options)
        except Exception as error:  # timm's models raise anything, from assertions to TypeErrors
            reasons.append(str(error))
    raise ValueError(
        f"MODEL.BACKBONE.CONV_BODY: timm:{name} cannot be a backbone: it gives no maps of an image "
        f"of {_PROBED_SIZE[1]} x {_PROBED_SIZE[0]} pixels ({reasons[-1]}); take another model, for "
        "example timm:convnext_tiny"
    )


def _raise_if_unknown(name: str) -> None:
    timm = _timm()
    if not timm.is_model(name):
        nearest = get_close_matches(name, timm.list_models(), 3, 0.5)
        meant = f"did you mean {' or '.join(nearest)}?" if nearest else "see timm.list_models()"
        raise ValueError(f"MODEL.BACKBONE.CONV_BODY: timm has no model {name!r}; {meant}")


def _pretrained_cfg(name: str) -> Any:
    """What timm knows of a model's own weights; None if it has none."""
    try:
        return _timm().get_pretrained_cfg(name)
    except RuntimeError as error:
        model, _, tag = name.partition(".")
        known = [each for each in _timm().list_pretrained(f"{model}.*") if each != model]
        raise ValueError(
            f"MODEL.BACKBONE.CONV_BODY: timm has no weights {tag!r} of {model}, but "
            f"{', '.join(known) or 'none at all'}; without such an ending, timm:{model} is the "
            "same model (detengine loads weights by MODEL.WEIGHT, not from timm)"
        ) from error


def _known_strides(name: str, options: dict[str, Any]) -> list[int]:
    with torch.device("meta"), torch.no_grad():
        net = _create(name, **options).eval()
        maps = net(torch.empty(1, 3, *_PROBED_SIZE))
    info = net.feature_info
    strides = [0] * len(info.info)
    for index, reduction, each in zip(info.out_indices, info.reduction(), maps, strict=True):
        sides = tuple(side // reduction for side in _PROBED_SIZE)
        strides[index] = reduction if sides in (each.shape[1:3], each.shape[2:4]) else 0
    return strides


def _last_index(strides: Sequence[int], stride: int) -> int:
    return len(strides) - 1 - list(reversed(strides)).index(stride)


def _positions(names: Sequence[str], stage: str | None) -> list[int]:
    """Where the stage's modules stand among all. stage: timm's name, which its wrappers change."""
    if stage is None:
        return []
    spellings = {stage, stage.replace(".", "_"), f"model.{stage}"}
    return [
        index
        for index, name in enumerate(names)
        if any(name == each or name.startswith(f"{each}.") for each in spellings)
    ]

"""The predecessor's weights: its names in ours, and what of its files a model needs not."""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detengine.checkpoint.conversion import Conversion

FORMAT = "maskrcnn-benchmark's names"
ANCHOR_TOLERANCE = 1e-3
"""By how many pixels the file's anchors may differ from the model's."""

_ITS_OWN = re.compile(
    r"backbone\.body\.stem\.|backbone\.fpn\.(?:fpn_(?:inner|layer)\d|top_blocks)\."
    r"|rpn\.anchor_generator\.cell_anchors\.\d|rpn\.head\.(?:cls|bbox)_tower\."
    r"|roi_heads\.(?:box|mask|keypoint)\."
)
_ANCHORS = re.compile(r"rpn\.anchor_generator\.cell_anchors\.(\d+)")
_XCONVS = re.compile(r"roi_heads\.box\.feature_extractor\.xconvs\.(\d+)\.(.+)")
_EXTRACTOR = r"roi_heads\.{}\.feature_extractor\.{}"
_RPN_ANCHORS = "MODEL.RPN.ANCHOR_SIZES, ASPECT_RATIOS and ANCHOR_STRIDE"
_RETINANET_ANCHORS = (
    "MODEL.RETINANET.ANCHOR_SIZES, ASPECT_RATIOS, ANCHOR_STRIDES, OCTAVE and SCALES_PER_OCTAVE"
)


class _Layout(NamedTuple):
    """What a name alone does not tell, from all names of a file.

    first_level: the number of the pyramid's finest block. stacked_convs: of the box head, None if
    it has none of that kind. conv_stride: from one stacked convolution to the next, the norm and
    ReLU between them counted. is_retinanet: whether rpn.head is the head of a RetinaNet.
    """

    first_level: int
    stacked_convs: int | None
    conv_stride: int
    is_retinanet: bool


def recognise(loaded: Mapping[str, Tensor]) -> bool:
    """Whether any name is one that only the predecessor gives."""
    return any(_ITS_OWN.match(name) for name in loaded)


def convert(loaded: Mapping[str, Tensor], model: nn.Module) -> Conversion:
    """Its names in ours; its anchors and a shared extractor's second copy are set aside.

    The anchors are compared with the model's own, the copy with the first; a difference is one of
    the conversion's conflicts. Conventions are not told: its files are read alike, whatever
    INPUT.TO_BGR255 and RESNETS.STRIDE_IN_1X1 they were trained with.
    """
    anchors = {int(m[1]): m[0] for name in loaded if (m := _ANCHORS.fullmatch(name))}
    names = name_map([name for name in loaded if name not in anchors.values()])
    conversion = Conversion({ours: theirs for theirs, ours in names.items()}, FORMAT)
    _set_shared_extractors_aside(conversion, loaded, model)
    _compare_anchors(conversion, {level: loaded[name] for level, name in anchors.items()}, model)
    conversion.set_aside.update(
        dict.fromkeys(anchors.values(), "anchors, which the model makes from the configuration")
    )
    return conversion


def name_map(names: Collection[str]) -> dict[str, str]:
    """Our name for each of the predecessor's; one that it does not have stays as it is."""
    layout = _layout(names)
    return {name: _our_name(name, layout) for name in names}


def _layout(names: Collection[str]) -> _Layout:
    blocks = [m[1] for name in names if (m := re.match(r"backbone\.fpn\.fpn_inner(\d)", name))]
    box_head = [name for name in names if re.match(_EXTRACTOR.format("box", "(xconvs|fc)"), name)]
    indices = {int(m[1]) for name in box_head if (m := _XCONVS.match(name))}
    has_fc7 = any(".fc7." in name for name in box_head)
    stride = 3 if 1 in indices else 2  # with a norm: convolution, norm, ReLU
    return _Layout(
        first_level=int(min(blocks, default="1")),
        stacked_convs=max(indices, default=-stride) // stride + 1
        if box_head and not has_fc7
        else None,
        conv_stride=stride,
        is_retinanet=any(name.startswith("rpn.head.cls_logits.") for name in names)
        and not any(name.startswith("rpn.head.conv.") for name in names),
    )


def _our_name(name: str, layout: _Layout) -> str:
    if name.startswith("backbone."):
        return _backbone_name(name, layout)
    if name.startswith("rpn."):
        return _retinanet_name(name) if layout.is_retinanet else _rpn_name(name)
    if name.startswith("roi_heads.box.feature_extractor."):
        return _box_head_name(name, layout)
    return _head_name(name)


def _backbone_name(name: str, layout: _Layout) -> str:
    if block := re.fullmatch(r"backbone\.fpn\.fpn_(inner|layer)(\d)\.(?:([01])\.)?(\w+)", name):
        kind, level, part, parameter = block.groups()
        return (
            f"backbone.fpn.{kind}_blocks.{int(level) - layout.first_level}.{part or 0}.{parameter}"
        )
    name = re.sub(r"^backbone\.body\.stem\.", "backbone.body.", name)
    return re.sub(r"^backbone\.fpn\.top_blocks\.", "backbone.fpn.extra_blocks.", name)


def _rpn_name(name: str) -> str:
    return re.sub(r"^rpn\.head\.conv\.", "rpn.head.conv.0.0.", name)


def _retinanet_name(name: str) -> str:
    heads = {"cls": "classification_head", "bbox": "regression_head"}
    if tower := re.fullmatch(r"rpn\.head\.(cls|bbox)_tower\.(\d+)\.(\w+)", name):
        kind, index, parameter = tower.groups()
        return f"head.{heads[kind]}.conv.{int(index) // 2}.0.{parameter}"
    name = re.sub(r"^rpn\.head\.cls_logits\.", "head.classification_head.cls_logits.", name)
    return re.sub(r"^rpn\.head\.bbox_pred\.", "head.regression_head.bbox_reg.", name)


def _box_head_name(name: str, layout: _Layout) -> str:
    """torchvision counts a convolution and its norm as one layer, and Flatten as another."""
    if layer := _XCONVS.fullmatch(name):
        index, part = divmod(int(layer[1]), layout.conv_stride)
        return f"roi_heads.box_head.{index}.{part}.{layer[2]}"
    if layout.stacked_convs is not None:
        linear = f"roi_heads.box_head.{layout.stacked_convs + 1}."
        name = re.sub(_EXTRACTOR.format("box", r"fc6\."), linear, name)
    name = re.sub(_EXTRACTOR.format("box", r"(fc[67])\."), r"roi_heads.box_head.\1.", name)
    return _head_name(name)


def _head_name(name: str) -> str:
    mask = _EXTRACTOR.format("mask", r"mask_fcn(\d+)\.(?:([01])\.)?(\w+)")
    if layer := re.fullmatch(mask, name):
        return f"roi_heads.mask_head.{int(layer[1]) - 1}.{layer[2] or 0}.{layer[3]}"
    if layer := re.fullmatch(_EXTRACTOR.format("keypoint", r"conv_fcn(\d+)\.(\w+)"), name):
        return f"roi_heads.keypoint_head.{2 * (int(layer[1]) - 1)}.{layer[2]}"
    name = re.sub(_EXTRACTOR.format("(box|mask|keypoint)", r"head\."), r"roi_heads.\1_head.", name)
    return re.sub(r"^roi_heads\.(box|mask|keypoint)\.predictor\.", r"roi_heads.\1_predictor.", name)


def _set_shared_extractors_aside(
    conversion: Conversion, loaded: Mapping[str, Tensor], model: nn.Module
) -> None:
    """The predecessor saves an extractor that heads share once for each of them."""
    names = model.state_dict().keys()
    for ours, theirs in list(conversion.sources.items()):
        first = re.sub(r"^roi_heads\.(mask|keypoint)_head\.", "roi_heads.box_head.", ours)
        if ours in names or ours == first or first not in names:
            continue
        source = conversion.sources.get(first)
        if source is None:
            continue
        del conversion.sources[ours]
        conversion.set_aside[theirs] = "the box head's extractor, which this model's heads share"
        if not torch.equal(loaded[theirs], loaded[source]):
            conversion.conflicts.append(
                f"{theirs} is not equal to {source}, but this model's heads share one extractor; "
                "set SHARE_BOX_FEATURE_EXTRACTOR to False, as these weights were trained"
            )


def _compare_anchors(
    conversion: Conversion, of_file: Mapping[int, Tensor], model: nn.Module
) -> None:
    """Of each level: float[A, 4], xyxy about a cell, in pixels."""
    of_model = {
        int(m[2]): (m[1], buffer.detach().cpu())
        for name, buffer in model.named_buffers()
        if (m := re.fullmatch(r"(.*)anchor_generator\.cell_anchors_(\d+)", name))
    }
    if not of_file or not of_model:
        return
    is_retinanet = not next(iter(of_model.values()))[0]
    for level in sorted(of_file.keys() | of_model.keys()):
        theirs = of_file.get(level)
        ours = of_model[level][1] if level in of_model else None
        if not _are_close(theirs, ours):
            conversion.conflicts.append(
                f"the weights were trained for other anchors: on level {level} the file has "
                f"{_text(theirs)}, the model {_text(ours)}; set "
                f"{_RETINANET_ANCHORS if is_retinanet else _RPN_ANCHORS} as in their training "
                "(and CONVENTIONS to maskrcnn_benchmark, which rounds them)"
            )
            return


def _are_close(theirs: Tensor | None, ours: Tensor | None) -> bool:
    if theirs is None or ours is None or theirs.shape != ours.shape:
        return False
    return bool((theirs.double() - ours.double()).abs().max() <= ANCHOR_TOLERANCE)


def _text(anchors: Tensor | None) -> str:
    if anchors is None:
        return "none"
    shown = ", ".join(str([round(side, 3) for side in box]) for box in anchors[:3].tolist())
    return f"{len(anchors)} ({shown}{', ...' if len(anchors) > 3 else ''})"

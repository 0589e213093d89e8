"""detectron2's names, and what is another way round in its models.

Source: its modeling/ (backbone/resnet.py, backbone/fpn.py, roi_heads/, meta_arch/retinanet.py),
layers/batch_norm.py and tools/convert-torchvision-to-d2.py.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detengine.checkpoint.anchor_heads import AnchorLayout, rearrange_anchor_heads
from detengine.checkpoint.conversion import Conventions, Conversion
from detengine.checkpoint.trunk import CLASSIFIER, has_folded_norms, places_of, with_own_epsilon

FORMAT = "detectron2's names"
ANCHORS = AnchorLayout(rpn_by_size=True, retinanet_by_size=True, plain_deltas=True)
"""Its DefaultAnchorGenerator and its RETINANET.BBOX_REG_WEIGHTS of 1."""
EPSILON = 1e-5
"""Of its batch norms, frozen or not."""

_BODY = r"(?:backbone\.(?:bottom_up\.)?)?"
_LAYER = r"(stem\.conv1|(?:res[2-5]\.\d+\.)(?:conv[123]|conv2_offset|shortcut))"
_NORM = r"(\.norm)?"
_ITS_OWN = re.compile(
    rf"{_BODY}(?:stem\.conv1|res[2-5]\.\d+\.(?:conv[123]|shortcut))\."
    r"|roi_heads\.res5\.|backbone\.(?:fpn_(?:lateral|output)\d|top_block)\."
    r"|proposal_generator\.rpn_head\.|head\.(?:cls|bbox)_subnet\."
)
_NO_PLACE = (
    (re.compile(r"pixel_(?:mean|std)"), "the images' mean and deviation: the configuration's"),
    (
        re.compile(r"(?:proposal_generator\.)?anchor_generator\.cell_anchors\.\d+"),
        "anchors, which the model makes from the configuration",
    ),
    (re.compile(r"(?:stem\.fc|(?:backbone\.)?linear)\.(?:weight|bias)"), CLASSIFIER),
)


class _Layout(NamedTuple):
    """What a name alone does not tell: the stage of the pyramid's finest map, the number of
    convolutions in the box head, and from one of RetinaNet's convolutions to the next how many
    layers there are, a norm and the ReLU between them counted."""

    first_stage: int
    box_convs: int
    subnet_stride: int


# Names without their last part, such as weight or running_mean, and ours.
_MODULES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], _Layout], str]], ...] = (
    (re.compile(_BODY + _LAYER + _NORM), lambda m, _: _body_module(m[1], bool(m[2]))),
    (
        re.compile(r"roi_heads\.(res5\.\d+\.(?:conv[123]|shortcut))" + _NORM),
        lambda m, _: _body_module(m[1], bool(m[2])),
    ),
    (
        re.compile(r"backbone\.fpn_(lateral|output)(\d)" + _NORM),
        lambda m, layout: (
            f"backbone.fpn.{'inner' if m[1] == 'lateral' else 'layer'}_blocks."
            f"{int(m[2]) - layout.first_stage}.{int(bool(m[3]))}"
        ),
    ),
    (re.compile(r"backbone\.top_block\.(p[67])"), lambda m, _: f"backbone.fpn.extra_blocks.{m[1]}"),
    (
        re.compile(r"proposal_generator\.rpn_head\.conv(?:\.conv(\d+))?"),
        lambda m, _: f"rpn.head.conv.{m[1] or 0}.0",
    ),
    (
        re.compile(r"proposal_generator\.rpn_head\.objectness_logits"),
        lambda m, _: "rpn.head.cls_logits",
    ),
    (
        re.compile(r"proposal_generator\.rpn_head\.anchor_deltas"),
        lambda m, _: "rpn.head.bbox_pred",
    ),
    (
        re.compile(r"roi_heads\.box_head\.conv(\d+)" + _NORM),
        lambda m, _: f"roi_heads.box_head.{int(m[1]) - 1}.{int(bool(m[2]))}",
    ),
    (
        re.compile(r"roi_heads\.box_head\.fc([12])"),
        lambda m, layout: _linear_module(int(m[1]), layout.box_convs),
    ),
    (
        re.compile(r"roi_heads\.mask_head\.mask_fcn(\d+)" + _NORM),
        lambda m, _: f"roi_heads.mask_head.{int(m[1]) - 1}.{int(bool(m[2]))}",
    ),
    (
        re.compile(r"roi_heads\.mask_head\.deconv"),
        lambda m, _: "roi_heads.mask_predictor.conv5_mask",
    ),
    (
        re.compile(r"roi_heads\.mask_head\.predictor"),
        lambda m, _: "roi_heads.mask_predictor.mask_fcn_logits",
    ),
    (
        re.compile(r"roi_heads\.keypoint_head\.conv_fcn(\d+)"),
        lambda m, _: f"roi_heads.keypoint_head.{2 * (int(m[1]) - 1)}",
    ),
    (
        re.compile(r"roi_heads\.keypoint_head\.score_lowres"),
        lambda m, _: "roi_heads.keypoint_predictor.kps_score_lowres",
    ),
    (
        re.compile(r"head\.(cls|bbox)_subnet\.(\d+)"),
        lambda m, layout: (
            f"head.{'classification' if m[1] == 'cls' else 'regression'}_head.conv."
            f"{int(m[2]) // layout.subnet_stride}.{int(m[2]) % layout.subnet_stride}"
        ),
    ),
    (re.compile(r"head\.cls_score"), lambda m, _: "head.classification_head.cls_logits"),
    (re.compile(r"head\.bbox_pred"), lambda m, _: "head.regression_head.bbox_reg"),
)


def recognise(loaded: Mapping[str, Tensor]) -> bool:
    """Whether any name is one that only detectron2 gives, in a detector or in a trunk alone."""
    return any(_ITS_OWN.match(name) for name in loaded)


def convert(loaded: Mapping[str, Tensor], model: nn.Module) -> Conversion:
    """Its names in ours, its tensors in our layout.

    Its last class is the background, ours the first, which has a box and a mask there: these are
    zeros, and nobody reads them. Its anchors stand in another order (`anchor_heads`). Where our
    frozen norms have another epsilon than its 1e-5, the variance takes up the difference.
    """
    stages = [int(m[1]) for name in loaded if (m := re.match(r"backbone\.fpn_lateral(\d)", name))]
    convs = {m[1] for name in loaded if (m := re.match(r"roi_heads\.box_head\.conv(\d+)", name))}
    has_norms = any(name.startswith("head.cls_subnet.1.") for name in loaded)
    layout = _Layout(min(stages, default=2), len(convs), subnet_stride=3 if has_norms else 2)
    names = model.state_dict().keys()
    sources = {
        place: name
        for name in loaded
        if not _why_unused(name)
        for place in places_of(_our_name(name, layout), names)
    }
    return Conversion(
        sources,
        format=FORMAT,
        rearranged=rearrange_anchor_heads(sources, loaded, model, ANCHORS)
        | _with_background_first(sources, loaded)
        | with_own_epsilon(sources, loaded, model, EPSILON),
        set_aside={name: why for name in loaded if (why := _why_unused(name))},
        conventions=_conventions(loaded),
    )


def _why_unused(name: str) -> str:
    return next((why for pattern, why in _NO_PLACE if pattern.fullmatch(name)), "")


def _our_name(name: str, layout: _Layout) -> str:
    """Ours; a name that we have no counterpart of stays as it is."""
    module, _, parameter = name.rpartition(".")
    for pattern, our_module in _MODULES:
        if match := pattern.fullmatch(module):
            return f"{our_module(match, layout)}.{parameter}"
    return name


def _body_module(layer: str, is_norm: bool) -> str:
    """layer: stem.conv1, res2.0.conv1, res2.0.shortcut, ..."""
    stage, _, rest = layer.partition(".")
    if stage == "stem":
        return f"backbone.body.{'bn1' if is_norm else 'conv1'}"
    block, _, kind = rest.partition(".")
    if kind == "shortcut":
        kind = f"downsample.{int(is_norm)}"
    elif kind == "conv2_offset":
        kind = "conv2.offset"
    elif is_norm:
        kind = kind.replace("conv", "bn")
    return f"backbone.body.layer{int(stage.removeprefix('res')) - 1}.{block}.{kind}"


def _linear_module(number: int, box_convs: int) -> str:
    """fc6 and fc7; behind convolutions torchvision counts the layers, Flatten and ReLU too."""
    if box_convs == 0:
        return f"roi_heads.box_head.fc{number + 5}"
    return f"roi_heads.box_head.{box_convs + 2 * number - 1}"


def _with_background_first(
    sources: Mapping[str, str], loaded: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The predictors of regions with our background: the class scores' last row, or new zeros."""
    found = {}
    for parameter in ("weight", "bias"):
        scores = f"roi_heads.box_predictor.cls_score.{parameter}"
        if (source := sources.get(scores)) and loaded[source].dim():
            found[scores] = loaded[source].roll(1, dims=0)
        for place, rows in (
            (f"roi_heads.box_predictor.bbox_pred.{parameter}", 4),
            (f"roi_heads.mask_predictor.mask_fcn_logits.{parameter}", 1),
        ):
            if (source := sources.get(place)) and loaded[source].dim():
                tensor = loaded[source]
                zeros = tensor.new_zeros(rows, *tensor.shape[1:])
                found[place] = torch.cat([zeros, tensor])
    return found


def _conventions(loaded: Mapping[str, Tensor]) -> Conventions:
    """What the numbers tell of the images and strides; None where they do not.

    A trunk with `stem.fc` was made of torchvision's by detectron2's tool. A file that has its
    `pixel_mean` tells the channels' order (blue is the darkest). Where the norms' means are all 0,
    they were folded in Caffe2: MSRA's or FAIR's weights, whose ResNeXts have the stride in 3x3.
    """
    body = {m[1]: t for name, t in loaded.items() if (m := re.match(_BODY + r"(res\d.*)", name))}
    has_bottlenecks = any(".conv3." in name for name in body)
    if "stem.fc.weight" in loaded:
        return Conventions(bgr255=False, stride_in_1x1=False if has_bottlenecks else None)
    folded = has_folded_norms(body)
    middle = [t.shape for name, t in body.items() if name.endswith(".conv2.weight")]
    grouped = any(len(shape) == 4 and shape[1] < shape[0] for shape in middle)
    return Conventions(
        bgr255=_order_of(loaded.get("pixel_mean"), otherwise=True if folded else None),
        stride_in_1x1=not grouped if folded and has_bottlenecks else None,
    )


def _order_of(pixel_mean: Tensor | None, otherwise: bool | None) -> bool | None:
    """Whether the channels are BGR: photographs' blue is darker than their red."""
    if pixel_mean is None or pixel_mean.numel() != 3:
        return otherwise
    first, _, last = pixel_mean.flatten().tolist()
    return otherwise if first == last else first < last

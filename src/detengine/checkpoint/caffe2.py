"""Caffe2 Detectron's names, and what its weights want of a model."""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from detengine.checkpoint import maskrcnn_benchmark
from detengine.checkpoint.anchor_heads import AnchorLayout, rearrange_anchor_heads
from detengine.checkpoint.conversion import Conventions, Conversion
from detengine.checkpoint.trunk import CLASSIFIER, places_of

FORMAT = "Caffe2 Detectron's names"

ANCHORS = AnchorLayout(rpn_by_size=False, retinanet_by_size=True, plain_deltas=True)
"""From Detectron's generate_anchors.py and, of RetinaNet, test_retinanet.py."""

_PARAMETERS = {"w": "weight", "s": "weight", "b": "bias"}
_KIND = r"_(?:(bn|gn)_)?([wsb])"
_NO_PLACE = (
    (re.compile(r".*_momentum"), "the momentum of Caffe2's solver"),
    (re.compile(r"(?:fc1000|pred)_[wb]"), CLASSIFIER),
    (
        re.compile(r"(?:conv1|(?:_\[mask\]_)?res\d_\d+_branch[12][abc]?)_b"),
        "biases in front of norms, which Detectron does not use either",
    ),
    (re.compile(r"kps_score_[wb]"), "a bilinear enlargement, which is no weight here"),
)
_MASK_STAGE = "roi_heads.mask.feature_extractor.head.layer4"
# Blobs without their ending (_w, _b, _bn_s, _bn_b, _gn_s, _gn_b), and the predecessor's module.
_MODULES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"(?:res_)?conv1"), lambda m: "backbone.body.stem.conv1"),
    (
        re.compile(r"res(\d)_(\d+)_branch1"),
        lambda m: f"backbone.body.layer{int(m[1]) - 1}.{m[2]}.downsample.0",
    ),
    (
        re.compile(r"res(\d)_(\d+)_branch2([abc])"),
        lambda m: f"backbone.body.layer{int(m[1]) - 1}.{m[2]}.conv{'abc'.index(m[3]) + 1}",
    ),
    (
        re.compile(r"_\[mask\]_res5_(\d+)_branch1"),
        lambda m: f"{_MASK_STAGE}.{m[1]}.downsample.0",
    ),
    (
        re.compile(r"_\[mask\]_res5_(\d+)_branch2([abc])"),
        lambda m: f"{_MASK_STAGE}.{m[1]}.conv{'abc'.index(m[2]) + 1}",
    ),
    (
        re.compile(r"fpn_inner_res(\d)_\d+_sum(?:_lateral)?"),
        lambda m: f"backbone.fpn.fpn_inner{int(m[1]) - 1}",
    ),
    (
        re.compile(r"fpn_res(\d)_\d+_sum"),
        lambda m: f"backbone.fpn.fpn_layer{int(m[1]) - 1}",
    ),
    (re.compile(r"fpn_([67])"), lambda m: f"backbone.fpn.top_blocks.p{m[1]}"),
    (re.compile(r"conv_rpn(?:_fpn\d)?"), lambda m: "rpn.head.conv"),
    (re.compile(r"rpn_(cls_logits|bbox_pred)(?:_fpn\d)?"), lambda m: f"rpn.head.{m[1]}"),
    (
        re.compile(r"retnet_(cls|bbox)_conv_n(\d+)_fpn\d"),
        lambda m: f"rpn.head.{m[1]}_tower.{2 * int(m[2])}",
    ),
    (re.compile(r"retnet_cls_pred_fpn\d"), lambda m: "rpn.head.cls_logits"),
    (re.compile(r"retnet_bbox_pred_fpn\d"), lambda m: "rpn.head.bbox_pred"),
    (re.compile(r"fc[67]"), lambda m: f"roi_heads.box.feature_extractor.{m[0]}"),
    (re.compile(r"head_conv(\d+)"), lambda m: f"roi_heads.box.feature_extractor.xconvs.{m[1]}"),
    (re.compile(r"cls_score|bbox_pred"), lambda m: f"roi_heads.box.predictor.{m[0]}"),
    (
        re.compile(r"_(?:\[mask\]|mask)_fcn(\d+)"),
        lambda m: f"roi_heads.mask.feature_extractor.mask_fcn{m[1]}",
    ),
    (re.compile(r"conv5_mask|mask_fcn_logits"), lambda m: f"roi_heads.mask.predictor.{m[0]}"),
    (re.compile(r"conv_fcn\d+"), lambda m: f"roi_heads.keypoint.feature_extractor.{m[0]}"),
    (re.compile(r"kps_score_lowres"), lambda m: f"roi_heads.keypoint.predictor.{m[0]}"),
)


def recognise(loaded: Mapping[str, Tensor]) -> bool:
    """Whether any name is a residual block's blob."""
    return any(re.fullmatch(r"res\d_\d+_branch[12][abc]?" + _KIND, name) for name in loaded)


def convert(loaded: Mapping[str, Tensor], model: nn.Module) -> Conversion:
    """Blob names in ours, by way of the predecessor's; the stage names follow from the blobs.

    Of all levels that share a layer, Detectron keeps it under the finest one's name (`_fpn2`). It
    folds the batch norms' statistics into a scale and a bias (`_bn_s`, `_bn_b`): where
    the model has statistics, they become those that leave scale and bias alone.
    """
    theirs = {name: _predecessor_name(name, loaded) for name in loaded if not _why_unused(name)}
    ours = maskrcnn_benchmark.name_map(list(theirs.values()))
    names = model.state_dict().keys()
    sources = {
        place: blob
        for blob, predecessors in sorted(theirs.items(), key=_is_of_mask_head)
        for place in places_of(ours[predecessors], names)
    }
    folded = [place for place, blob in sources.items() if blob.endswith("_bn_s")]
    return Conversion(
        sources,
        format=FORMAT,
        rearranged=rearrange_anchor_heads(sources, loaded, model, ANCHORS),
        set_aside={name: why for name in loaded if (why := _why_unused(name))},
        made={name: tensor for place in folded for name, tensor in _statistics(place, model)},
        conventions=_conventions(loaded),
    )


def _conventions(blobs: Mapping[str, Tensor]) -> Conventions:
    """BGR in 0..255 always; the stride by the kind of bottleneck.

    MSRA's plain ones, with folded batch norms, have it in the first convolution; FAIR's ResNeXts
    (grouped) and group norm nets, trained after fb.resnet.torch, in the second: STRIDE_1X1 in
    Detectron's configurations.
    """
    body = [name for name in blobs if re.match(r"res\d_\d+_branch2", name)]
    if not any(name.endswith("branch2c_w") for name in body):
        return Conventions(bgr255=True)
    middle = [blobs[name].shape for name in body if name.endswith("branch2b_w")]
    grouped = any(len(shape) == 4 and shape[1] < shape[0] for shape in middle)
    has_group_norm = any(name.endswith("_gn_s") for name in body)
    return Conventions(bgr255=True, stride_in_1x1=not (grouped or has_group_norm))


def _is_of_mask_head(blob: tuple[str, str]) -> bool:
    """A mask head's own last stage comes last, and wins over the one that all heads can have."""
    return blob[0].startswith("_[mask]_res5")


def _why_unused(blob: str) -> str:
    return next((why for pattern, why in _NO_PLACE if pattern.fullmatch(blob)), "")


def _predecessor_name(blob: str, blobs: Mapping[str, Tensor]) -> str:
    """The predecessor's name of a blob; one that Detectron does not have stays as it is."""
    ending = re.search(_KIND + "$", blob)
    if ending is None:
        return blob
    stem, (norm, parameter) = blob[: ending.start()], ending.groups()
    for pattern, module in _MODULES:
        if match := pattern.fullmatch(stem):
            layer = _layer(module(match), norm is not None, norm == "gn" or f"{stem}_gn_s" in blobs)
            return f"{layer}.{_PARAMETERS[parameter]}"
    return blob


def _layer(module: str, is_norm: bool, has_norm: bool) -> str:
    """The convolution's or its norm's module, as the predecessor lays them out.

    In a residual stage they stand side by side (conv2, bn2; downsample.0, .1), elsewhere in a row
    (fc6.0, .1), but where there is no norm the layer stands alone. has_norm: of that layer.
    """
    stacked = re.fullmatch(r"(.*\.xconvs)\.(\d+)", module)
    if stacked:
        first = (int(stacked[2]) - 1) * (3 if has_norm else 2)  # convolution, norm, ReLU
        return f"{stacked[1]}.{first + is_norm}"
    if module.startswith(("backbone.body.", _MASK_STAGE)):
        if is_norm:
            module = re.sub(r"\.conv(\d)$", r".bn\1", module)
            module = re.sub(r"\.downsample\.0$", ".downsample.1", module)
        return module
    return f"{module}.{int(is_norm)}" if has_norm else module


def _statistics(scale_name: str, model: nn.Module) -> list[tuple[str, Tensor]]:
    """A batch norm's mean and variance that make it an affine map; none if it has no such.

    The predecessor's frozen norm divides by the root of the variance alone, torchvision's adds eps
    to it first: the variance is 1 - eps, so that both divide by 1.
    """
    norm_name = scale_name.removesuffix(".weight")
    try:
        norm = model.get_submodule(norm_name)
    except AttributeError:
        return []
    mean, eps = getattr(norm, "running_mean", None), getattr(norm, "eps", 0.0)
    if not isinstance(mean, Tensor):
        return []
    zeros = torch.zeros(mean.shape)
    return [(f"{norm_name}.running_mean", zeros), (f"{norm_name}.running_var", zeros + 1 - eps)]

"""Our models' weights under Caffe2 Detectron's names: the inverse of `caffe2`."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detengine.checkpoint.anchor_heads import to_their_layout
from detengine.checkpoint.caffe2 import ANCHORS

_SHOWN = 3
_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
_ENDINGS = {"weight": "w", "bias": "b"}
_NORM_ENDINGS = {"weight": "s", "bias": "b"}


class _Layout(NamedTuple):
    """What the names of a model's other parts say of a layer's name.

    last_blocks: of each stage, res2 to res5, the number of its last block. levels: the stages under
    the pyramid, finest first; none without a pyramid. mask_prefix: of the mask head's convolutions.
    """

    last_blocks: Mapping[int, int]
    levels: range
    mask_prefix: str

    @property
    def shared(self) -> str:
        """The ending of what all levels share: it stands under the finest one's name."""
        return f"_fpn{self.levels[0]}" if self.levels else ""

    def of_level(self, index: int) -> str:
        stage = self.levels[index]
        return f"res{stage}_{self.last_blocks.get(stage, 0)}_sum"

    def lateral(self, index: int) -> str:
        """The coarsest level has nothing above it to be added to, and another name."""
        is_coarsest = index == len(self.levels) - 1
        return f"fpn_inner_{self.of_level(index)}{'' if is_coarsest else '_lateral'}"


_Blob = Callable[[re.Match[str], _Layout], str]
_STAGE = r"backbone\.body\.layer([1-4])\.(\d+)"
_IN_HEAD = r"roi_heads\.(box|mask)_head\.layer4\.(\d+)"
# Our layers' modules, and the blobs' names without their ending.
_BLOBS: tuple[tuple[re.Pattern[str], _Blob], ...] = (
    (re.compile(r"backbone\.body\.conv1"), lambda m, _: "conv1"),
    (
        re.compile(_STAGE + r"\.conv([123])"),
        lambda m, _: f"res{int(m[1]) + 1}_{m[2]}_branch2{_letter(m[3])}",
    ),
    (
        re.compile(_STAGE + r"\.downsample\.0"),
        lambda m, _: f"res{int(m[1]) + 1}_{m[2]}_branch1",
    ),
    (
        re.compile(_IN_HEAD + r"\.conv([123])"),
        lambda m, _: f"{_prefix(m[1])}res5_{m[2]}_branch2{_letter(m[3])}",
    ),
    (
        re.compile(_IN_HEAD + r"\.downsample\.0"),
        lambda m, _: f"{_prefix(m[1])}res5_{m[2]}_branch1",
    ),
    (
        re.compile(r"backbone\.fpn\.inner_blocks\.(\d+)\.0"),
        lambda m, layout: layout.lateral(int(m[1])),
    ),
    (
        re.compile(r"backbone\.fpn\.layer_blocks\.(\d+)\.0"),
        lambda m, layout: f"fpn_{layout.of_level(int(m[1]))}",
    ),
    (re.compile(r"backbone\.fpn\.extra_blocks\.p([67])"), lambda m, _: f"fpn_{m[1]}"),
    (re.compile(r"rpn\.head\.conv\.0\.0"), lambda m, layout: f"conv_rpn{layout.shared}"),
    (
        re.compile(r"rpn\.head\.(cls_logits|bbox_pred)"),
        lambda m, layout: f"rpn_{m[1]}{layout.shared}",
    ),
    (
        re.compile(r"head\.(classification|regression)_head\.conv\.(\d+)\.0"),
        lambda m, layout: f"retnet_{_tower(m[1])}_conv_n{m[2]}{layout.shared}",
    ),
    (
        re.compile(r"head\.(classification|regression)_head\.(?:cls_logits|bbox_reg)"),
        lambda m, layout: f"retnet_{_tower(m[1])}_pred{layout.shared}",
    ),
    (re.compile(r"roi_heads\.box_head\.(fc[67])(?:\.0)?"), lambda m, _: m[1]),
    (re.compile(r"roi_heads\.box_head\.(\d+)\.0"), lambda m, _: f"head_conv{int(m[1]) + 1}"),
    (re.compile(r"roi_heads\.box_head\.\d+"), lambda m, _: "fc6"),
    (re.compile(r"roi_heads\.box_predictor\.(cls_score|bbox_pred)"), lambda m, _: m[1]),
    (
        re.compile(r"roi_heads\.mask_head\.(\d+)\.0"),
        lambda m, layout: f"{layout.mask_prefix}fcn{int(m[1]) + 1}",
    ),
    (re.compile(r"roi_heads\.mask_predictor\.(conv5_mask|mask_fcn_logits)"), lambda m, _: m[1]),
    (
        re.compile(r"roi_heads\.keypoint_head\.(\d+)"),
        lambda m, _: f"conv_fcn{int(m[1]) // 2 + 1}",
    ),
    (re.compile(r"roi_heads\.keypoint_predictor\.(kps_score_lowres)"), lambda m, _: m[1]),
)


def to_blobs(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Caffe2 Detectron's blobs, float32, of a model's weights or of some of its parts.

    state: by the model's names. A frozen norm's statistics are folded into scale and bias, and
    RetinaNet's heads are laid out as Detectron has them; all else stays bit for bit.
    Raises ValueError, naming the first tensors that Detectron has no names for, if there are any.
    """
    layout = _layout(model.state_dict().keys())
    blobs, nameless = {}, []
    for name in state:
        module_name, _, parameter = name.rpartition(".")
        module = model.get_submodule(module_name)
        is_folded = isinstance(module, FrozenBatchNorm2d) and parameter.startswith("running_")
        if is_folded:
            continue
        if blob := _blob_name(module_name, parameter, module, layout):
            blobs[blob] = _content(name, state, module, model)
        else:
            nameless.append(name)
    if nameless:
        raise ValueError(_no_names(nameless, len(state)))
    return blobs


def _no_names(nameless: list[str], total: int) -> str:
    more = ", ..." if len(nameless) > _SHOWN else ""
    return (
        f"{len(nameless)} of the {total} tensors have no names in Caffe2 Detectron: "
        f"{', '.join(nameless[:_SHOWN])}{more}. It has ResNets and ResNeXts with frozen batch "
        "norms or group norms, and the heads of its R-CNNs and RetinaNet. Convert to .pth or "
        ".safetensors instead."
    )


def _layout(names: Iterable[str]) -> _Layout:
    last_blocks: dict[int, int] = {}
    in_pyramid: set[int] = set()
    mask_prefix = "_[mask]_"
    for name in names:
        if re.match(r"roi_heads\.mask_head\.\d+\.1\.", name):
            mask_prefix = "_mask_"  # with a norm
        if match := re.match(_STAGE, name):
            stage = int(match[1]) + 1
            last_blocks[stage] = max(last_blocks.get(stage, 0), int(match[2]))
        if match := re.match(r"backbone\.fpn\.inner_blocks\.(\d+)\.", name):
            in_pyramid.add(int(match[1]))
    coarsest = max(last_blocks, default=1)
    levels = range(coarsest - len(in_pyramid) + 1, coarsest + 1)
    return _Layout(last_blocks, levels, mask_prefix)


def _blob_name(module_name: str, parameter: str, module: nn.Module, layout: _Layout) -> str:
    """ "" for what has no name."""
    if isinstance(module, _LAYERS) and parameter in _ENDINGS:
        stem = _stem(module_name, layout)
        return f"{stem}_{_ENDINGS[parameter]}" if stem else ""
    kinds = {FrozenBatchNorm2d: "bn", nn.GroupNorm: "gn"}
    kind = next((kind for norm, kind in kinds.items() if isinstance(module, norm)), "")
    if not kind or parameter not in _NORM_ENDINGS:
        return ""
    stem = _stem(_layer_of(module_name), layout)
    if kind == "bn" and stem == "conv1":
        stem = "res_conv1"
    return f"{stem}_{kind}_{_NORM_ENDINGS[parameter]}" if stem else ""


def _stem(layer_name: str, layout: _Layout) -> str:
    for pattern, blob in _BLOBS:
        if match := pattern.fullmatch(layer_name):
            return blob(match, layout)
    return ""


def _layer_of(norm_name: str) -> str:
    """The layer in front of a norm: conv2 of bn2, and 0 of 1 in a row."""
    name = re.sub(r"\.bn(\d)$", r".conv\1", norm_name)
    return re.sub(r"\.1$", ".0", name)


def _content(name: str, state: Mapping[str, Tensor], module: nn.Module, model: nn.Module) -> Tensor:
    tensor = state[name].detach().cpu()
    if isinstance(module, FrozenBatchNorm2d):
        tensor = _folded(name, state, module.eps)
    return to_their_layout(name, tensor.float(), model, ANCHORS).contiguous()


def _folded(name: str, state: Mapping[str, Tensor], epsilon: float) -> Tensor:
    """A frozen norm's scale or bias, the statistics taken in; in double precision, so that those
    that leave scale and bias alone change no bit."""
    norm_name, _, parameter = name.rpartition(".")
    scale, bias, mean, variance = (
        state[f"{norm_name}.{each}"].detach().cpu().double()
        for each in ("weight", "bias", "running_mean", "running_var")
    )
    factor = scale / (variance + epsilon).sqrt()
    return factor if parameter == "weight" else bias - mean * factor


def _letter(number: str) -> str:
    return "abc"[int(number) - 1]


def _prefix(head: str) -> str:
    """The box head's stage is called as the body's; Detectron knows none there besides."""
    return "_[mask]_" if head == "mask" else ""


def _tower(name: str) -> str:
    return "cls" if name == "classification" else "bbox"

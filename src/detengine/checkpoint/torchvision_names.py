"""torchvision's detectors: their names of before 0.13, and what theirs have otherwise than ours."""

import re
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from detengine.checkpoint.anchor_heads import (
    AnchorLayout,
    rearrange_anchor_heads,
    without_first_class,
)
from detengine.checkpoint.conversion import WRAPPERS, Conventions, Conversion
from detengine.checkpoint.trunk import TORCHVISION_EPSILON, with_own_epsilon

FORMAT = "torchvision's names"
ANCHORS = AnchorLayout(rpn_by_size=False, retinanet_by_size=False, plain_deltas=True)
"""As in its AnchorGenerator, and its RetinaNet's BoxCoder with weights of 1."""
_ITS_OWN_MODULE = "transform"
"""The part of its detectors that resizes images; ours has none of that name."""
PUBLISHED_EPSILON = 0.0
"""Of the batch norms in its ResNet-50 detectors of 2019, which alone have the older names: its
builders set it for COCO_V1 (overwrite_eps)."""

# From the _load_from_state_dict of torchvision's FeaturePyramidNetwork, RPNHead, MaskRCNNHeads,
# RetinaNetClassificationHead and RetinaNetRegressionHead, which load a file of version 1.
_RENAMED: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (
        re.compile(r"(.*fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)"),
        lambda m: f"{m[1]}.0.{m[2]}",
    ),
    (re.compile(r"(.*rpn\.head\.conv)\.(weight|bias)"), lambda m: f"{m[1]}.0.0.{m[2]}"),
    (
        re.compile(r"(.*mask_head)\.mask_fcn(\d+)\.(weight|bias)"),
        lambda m: f"{m[1]}.{int(m[2]) - 1}.0.{m[3]}",
    ),
    (
        re.compile(r"(.*head\.(?:classification|regression)_head\.conv)\.(\d+)\.(weight|bias)"),
        lambda m: f"{m[1]}.{int(m[2]) // 2}.0.{m[3]}",
    ),
)


def recognise(loaded: Mapping[str, Tensor]) -> bool:
    """Whether any name is one of before torchvision 0.13."""
    return any(pattern.fullmatch(name) for name in loaded for pattern, _ in _RENAMED)


def is_saved_by_its_model(loaded: Mapping[str, Tensor], model: nn.Module) -> bool:
    """Whether a state dict was taken of a model of torchvision's, which `model` is not.

    Its present names are ours; but a state dict that torch.save wrote lists its model's modules.
    """
    modules = getattr(loaded, "_metadata", None)
    if not isinstance(modules, Mapping) or hasattr(model, _ITS_OWN_MODULE):
        return False
    return any(wrapper + _ITS_OWN_MODULE in modules for wrapper in ("", *WRAPPERS))


def convert(loaded: Mapping[str, Tensor], model: nn.Module) -> Conversion:
    """The older names in the newer ones; a name that the model has stays as it is.

    Its RetinaNet counts the background among the classes, and has other units of boxes.
    """
    epsilon = PUBLISHED_EPSILON if recognise(loaded) else TORCHVISION_EPSILON
    names = model.state_dict().keys()
    sources = {name if name in names else _renamed(name): name for name in loaded}
    is_resnet = any(".layer1." in name for name in loaded)
    variances = with_own_epsilon(sources, loaded, model, epsilon) if is_resnet else {}
    return Conversion(
        sources,
        format=FORMAT,
        rearranged=rearrange_anchor_heads(sources, loaded, model, ANCHORS)
        | without_first_class(sources, loaded, model)
        | variances,
        conventions=Conventions(bgr255=False, stride_in_1x1=False if is_resnet else None),
    )


def _renamed(name: str) -> str:
    for pattern, new_name in _RENAMED:
        if match := pattern.fullmatch(name):
            return new_name(match)
    return name

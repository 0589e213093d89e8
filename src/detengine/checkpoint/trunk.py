"""The weights of a trunk, as ImageNet's are, and where in a detector each of them stands."""

import re
from collections import Counter
from collections.abc import Collection, Mapping

from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detengine.checkpoint.conversion import Conventions, Conversion

_BODY = "backbone.body."
_LAST_STAGE = "layer4."
CLASSIFIER = "ImageNet's classifier, which no detector has"
_CLASSIFIERS = {
    f"{name}.{parameter}"
    for name in ("fc", "classifier", "head", "head.fc")
    for parameter in ("weight", "bias")
}
"""What torchvision's and timm's models call it."""
TORCHVISION_EPSILON = 1e-5
"""Of the batch norms in torchvision's ResNets, and timm's."""
_HEADS = ("roi_heads.box_head.", "roi_heads.mask_head.")


def convert_part(loaded: Mapping[str, Tensor], model: nn.Module) -> Conversion:
    """Take a file's names as those of the part of the model that knows most of them."""
    names = model.state_dict().keys()
    prefix = _best_prefix(names, loaded)
    sources = {place: name for name in loaded for place in places_of(prefix + name, names)}
    if not prefix:
        return Conversion(sources)
    aside = [name for place, name in sources.items() if place not in names and name in _CLASSIFIERS]
    sources = {place: name for place, name in sources.items() if name not in aside}
    is_published = bool(aside) and not has_folded_norms(loaded)
    return Conversion(
        sources,
        format=f"the part {prefix!r} of the model",
        rearranged=with_own_epsilon(sources, loaded, model, TORCHVISION_EPSILON)
        if is_published
        else {},
        set_aside=dict.fromkeys(aside, CLASSIFIER),
        conventions=_conventions(loaded) if is_published else None,
    )


def with_own_epsilon(
    sources: Mapping[str, str], loaded: Mapping[str, Tensor], model: nn.Module, epsilon: float
) -> dict[str, Tensor]:
    """By the model's names, variances to which its frozen norms add their own epsilon instead.

    epsilon: what the norms had that the weights were trained in. Only where the two differ.
    """
    found = {}
    for place, source in sources.items():
        norm_name, _, kind = place.rpartition(".")
        if kind != "running_var" or not loaded[source].is_floating_point():
            continue
        norm = _submodule(model, norm_name)
        if isinstance(norm, FrozenBatchNorm2d) and norm.eps != epsilon:
            variance = loaded[source].double() + (epsilon - norm.eps)
            found[place] = variance.to(loaded[source].dtype)
    return found


def _submodule(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def has_folded_norms(loaded: Mapping[str, Tensor]) -> bool:
    """Whether the batch norms' means are all 0: folded into scale and bias, as Caffe2's are."""
    means = [tensor for name, tensor in loaded.items() if name.endswith("running_mean")]
    return bool(means) and not any(bool(mean.any()) for mean in means)


def _conventions(loaded: Mapping[str, Tensor]) -> Conventions:
    """Those of torchvision and timm: a ResNet's bottlenecks have the stride in the 3x3."""
    bottlenecks = any(re.fullmatch(r"layer\d\.\d+\.conv3\.weight", name) for name in loaded)
    return Conventions(bgr255=False, stride_in_1x1=False if bottlenecks else None)


def places_of(name: str, names: Collection[str]) -> list[str]:
    """Where the model has a tensor of the trunk; [name] if it has no place for it.

    The last stage (layer4, C5) stands in the heads of a C4 model, and in each head that has one of
    its own. A deformable layer holds its convolution one level deeper.
    """
    if name in names:
        return [name]
    deformable = name.replace(".conv2.", ".conv2.conv.")
    if deformable in names:
        return [deformable]
    if name.startswith(_BODY + _LAST_STAGE):
        in_heads = [head + name.removeprefix(_BODY) for head in _HEADS]
        return [place for place in in_heads if place in names] or [name]
    return [name]


def _best_prefix(names: Collection[str], loaded: Mapping[str, Tensor]) -> str:
    prefixes = Counter(
        ours.removesuffix(theirs)
        for theirs in loaded
        for ours in names
        if ours.endswith("." + theirs)
    )
    return prefixes.most_common(1)[0][0] if prefixes else ""

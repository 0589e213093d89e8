"""The weights of a trunk, as ImageNet's are, and where in a detector each of them stands."""

from collections import Counter
from collections.abc import Collection, Mapping

from torch import Tensor, nn

from detengine.checkpoint.conversion import Conversion

_BODY = "backbone.body."
_LAST_STAGE = "layer4."
CLASSIFIER = "ImageNet's classifier, which no detector has"
_CLASSIFIERS = {
    f"{name}.{parameter}"
    for name in ("fc", "classifier", "head", "head.fc")
    for parameter in ("weight", "bias")
}
"""What torchvision's and timm's models call it."""
_HEADS = ("roi_heads.box_head.", "roi_heads.mask_head.")


def convert_part(loaded: Mapping[str, Tensor], model: nn.Module) -> Conversion:
    """Take a file's names as those of the part of the model that knows most of them."""
    names = model.state_dict().keys()
    prefix = _best_prefix(names, loaded)
    sources = {place: name for name in loaded for place in places_of(prefix + name, names)}
    if not prefix:
        return Conversion(sources)
    aside = [name for place, name in sources.items() if place not in names and name in _CLASSIFIERS]
    return Conversion(
        {place: name for place, name in sources.items() if name not in aside},
        format=f"the part {prefix!r} of the model",
        set_aside=dict.fromkeys(aside, CLASSIFIER),
    )


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

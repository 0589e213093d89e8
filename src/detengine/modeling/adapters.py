"""Detectors of torchvision's contract in an engine of uint8 images and run-length masks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from detengine.structures.masks import RunLengthMasks

MASK_SIDE = 28
"""The resolution at which pasted masks are read back: that of torchvision's mask heads."""


def adapt(model: nn.Module) -> nn.Module:
    """Teach a torchvision-style detector the engine's contract, and return it.

    In training it is then called with uint8 images and our targets, and its own forward sees floats
    in [0, 1] and dense masks uint8[N, H, W]; in evaluation its `masks`, float[N, 1, H, W] pasted
    into the image, come back as `mask_probs` float[N, 28, 28] inside their boxes. All else passes
    through.

    The module itself is changed, by two hooks around its forward, and not wrapped: its parameters,
    their names, its state_dict and its attributes stay what they were. A model that already takes
    our contract (attribute `takes_uint8`) is returned untouched, so adapting twice is adapting
    once.
    """
    if not getattr(model, "takes_uint8", False):
        model.register_forward_pre_hook(_hand_over, with_kwargs=True)
        model.register_forward_hook(_take_back)
        model.takes_uint8 = True  # type: ignore[assignment]  # a plain attribute, not a parameter
    return model


def _hand_over(
    _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Before forward(images, targets=None): what a torchvision model expects of both."""
    given = dict(zip(("images", "targets"), args, strict=False)) | kwargs
    if given.get("images") is not None:
        given["images"] = [_to_float(image) for image in given["images"]]
    if given.get("targets") is not None:
        given["targets"] = [_to_foreign(target) for target in given["targets"]]
    names = ("images", "targets")[: len(args)]
    return tuple(given.pop(name) for name in names), given


def _to_float(image: Tensor) -> Tensor:
    """In planes, as torchvision's loaders have them: the kernels that follow round accordingly."""
    return image.contiguous() / 255 if image.dtype == torch.uint8 else image


def _to_foreign(target: Mapping[str, Any]) -> dict[str, Any]:
    """The target without the sizes, which only the engine knows, and with dense masks."""
    foreign = {key: target[key] for key in target if key not in ("image_size", "original_size")}
    if isinstance(foreign.get("masks"), RunLengthMasks):
        foreign["masks"] = foreign["masks"].dense()
    return foreign


def _take_back(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """After forward: losses as they are, detections with their masks read back."""
    return [_to_ours(each) for each in output] if isinstance(output, Sequence) else output


def _to_ours(detections: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ours = dict(detections)
    if "masks" in ours:
        ours["mask_probs"] = read_masks_back(ours.pop("masks"), ours["boxes"])
    return ours


def read_masks_back(masks: Tensor, boxes_xyxy: Tensor, side: int = MASK_SIDE) -> Tensor:
    """The square masks that give these when pasted. masks: [N, 1, H, W] in [0, 1]; boxes: float[N,
    4].

    Returns float[N, side, side]. Undoes torchvision's paste_masks_in_image: that one pads the
    square by one cell on each side, widens the box likewise, cuts its corners off to whole pixels
    and stretches the square over them, both end pixels included. So the cells' centres are known,
    and the picture is sampled there.
    """
    centre = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    half = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) / 2 * ((side + 2) / side)
    first, last = (centre - half).trunc(), (centre + half).trunc()
    cell = (last - first + 1) / (side + 2)
    inner = torch.cat([first + cell, last + 1 - cell], dim=1)
    index = torch.arange(len(masks), device=masks.device, dtype=inner.dtype)[:, None]
    rois = torch.cat([index, inner], dim=1)
    probs: Tensor = roi_align(masks.to(inner.dtype), rois, side, sampling_ratio=1, aligned=True)
    return probs[:, 0]

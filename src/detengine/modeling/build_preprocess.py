"""What happens to the images before the backbone, from the configuration."""

from typing import Any

from detengine.config.schema import Config
from detengine.modeling.preprocess import Preprocess

COARSEST_STRIDE = 32
"""Coarser levels are made from that of this stride, and divide whatever it divides."""


def build_preprocess(cfg: Config, backbone: Any) -> Preprocess:
    """Normalise as INPUT says, and pad as DATALOADER.SIZE_DIVISIBILITY does.

    backbone: with the `strides` of its feature maps, in pixels.
    """
    given = cfg.DATALOADER.SIZE_DIVISIBILITY
    divisible = min(max(backbone.strides), COARSEST_STRIDE) if given is None else max(given, 1)
    return Preprocess(
        cfg.INPUT.PIXEL_MEAN,
        cfg.INPUT.PIXEL_STD,
        divisible,
        to_bgr255=cfg.INPUT.TO_BGR255,
        channels_last=or_where_16_bits(cfg, cfg.MODEL.CHANNELS_LAST),
    )


def or_where_16_bits(cfg: Config, given: bool | None) -> bool:
    """What a key says, or where it says nothing, whether DTYPE has 16 bits."""
    return cfg.DTYPE != "float32" if given is None else given

"""From the configuration to a model. The `build_` files beside this one are its parts."""

from typing import Any

from torch import nn

from detengine.config.schema import Config
from detengine.modeling.adapters import adapt
from detengine.modeling.build_backbone import build_backbone
from detengine.modeling.build_heads import build_roi_heads
from detengine.modeling.build_preprocess import build_preprocess, or_where_16_bits
from detengine.modeling.build_retinanet import build_retinanet
from detengine.modeling.build_rpn import build_rpn
from detengine.modeling.builder import build_by_name
from detengine.modeling.channels_last import put_channels_last
from detengine.modeling.compiling import compile_parts
from detengine.modeling.folding import fold_frozen_norms
from detengine.modeling.rcnn import GeneralizedRCNN


def build_detection_model(cfg: Config) -> nn.Module:
    """Build an R-CNN, its proposals' part alone or a RetinaNet, or call the user's MODEL.BUILDER.

    The model takes uint8 images and our targets. Raises ValueError, naming the key, for a value
    that does not fit the others; see `build_by_name` for what a builder may raise.
    """
    model = _build(cfg)
    if or_where_16_bits(cfg, cfg.MODEL.FOLD_FROZEN_BN) and cfg.MODEL.BUILDER is None:
        fold_frozen_norms(model)
    if or_where_16_bits(cfg, cfg.MODEL.CHANNELS_LAST):
        put_channels_last(model)
    if cfg.MODEL.COMPILE:
        compile_parts(model)
    return model


def _build(cfg: Config) -> nn.Module:
    if cfg.MODEL.BUILDER is not None:
        return adapt(build_by_name(cfg.MODEL.BUILDER, cfg))
    if cfg.MODEL.RETINANET_ON:
        return build_retinanet(cfg)
    backbone = build_backbone(cfg)
    return GeneralizedRCNN(
        build_preprocess(cfg, backbone),
        backbone,
        build_rpn(cfg, backbone),
        None if cfg.MODEL.RPN_ONLY else build_roi_heads(cfg, backbone),
        mask_threshold=_mask_threshold(cfg),
    )


def _mask_threshold(cfg: Config) -> float | None:
    head: Any = cfg.MODEL.ROI_MASK_HEAD
    if not cfg.MODEL.MASK_ON or not head.POSTPROCESS_MASKS:
        return None
    return float(head.POSTPROCESS_MASKS_THRESHOLD)

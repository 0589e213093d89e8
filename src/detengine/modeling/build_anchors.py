"""The anchors of a configuration's model, and what they are matched by."""

from detengine.config.schema import Config
from detengine.modeling.anchors import AnchorGenerator


def build_anchor_generator(cfg: Config) -> AnchorGenerator:
    """The anchors of the RPN, or of RetinaNet where MODEL.RETINANET_ON."""
    if cfg.MODEL.RETINANET_ON:
        return _of_retinanet(cfg)
    rpn = cfg.MODEL.RPN
    return AnchorGenerator(
        _sizes_of_levels(cfg), rpn.ASPECT_RATIOS, rpn.ANCHOR_STRIDE, cfg.MODEL.ARITHMETIC.ANCHORS
    )


def _of_retinanet(cfg: Config) -> AnchorGenerator:
    """SCALES_PER_OCTAVE sizes on each level, evenly over an octave in logarithm."""
    retinanet = cfg.MODEL.RETINANET
    scales = [
        retinanet.OCTAVE ** (index / retinanet.SCALES_PER_OCTAVE)
        for index in range(retinanet.SCALES_PER_OCTAVE)
    ]
    return AnchorGenerator(
        [[scale * size for scale in scales] for size in retinanet.ANCHOR_SIZES],
        retinanet.ASPECT_RATIOS,
        retinanet.ANCHOR_STRIDES,
        cfg.MODEL.ARITHMETIC.ANCHORS,
    )


def _sizes_of_levels(cfg: Config) -> list[tuple[int, ...]]:
    """The anchors' sizes of each level: one each on a pyramid, else all on the one level."""
    sizes = cfg.MODEL.RPN.ANCHOR_SIZES
    return [(size,) for size in sizes] if cfg.MODEL.RPN.USE_FPN else [tuple(sizes)]


def anchor_keys(cfg: Config) -> tuple[str, tuple[int, ...], float]:
    """The key of the sizes, the sizes, and the IoU from which on an anchor is an object's."""
    if cfg.MODEL.RETINANET_ON:
        retinanet = cfg.MODEL.RETINANET
        key = "MODEL.RETINANET.ANCHOR_SIZES"
        return key, tuple(retinanet.ANCHOR_SIZES), retinanet.FG_IOU_THRESHOLD
    rpn = cfg.MODEL.RPN
    return "MODEL.RPN.ANCHOR_SIZES", tuple(rpn.ANCHOR_SIZES), rpn.FG_IOU_THRESHOLD

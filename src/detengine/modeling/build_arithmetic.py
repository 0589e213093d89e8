"""From the configuration to the arithmetic with boxes."""

from detengine.config.schema import Config
from detengine.modeling.boxes import BoxArithmetic, ContinuousBoxes, InclusiveBoxes


def make_arithmetic(cfg: Config) -> BoxArithmetic:
    """What MODEL.ARITHMETIC.INCLUSIVE_PIXELS says of a box's last pixel."""
    return InclusiveBoxes() if cfg.MODEL.ARITHMETIC.INCLUSIVE_PIXELS else ContinuousBoxes()

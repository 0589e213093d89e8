"""What scores in a model's place, made from the configuration."""

from torch import nn

from detengine.config.schema import Config
from detengine.data.transforms import make_resize
from detengine.engine.tta import TestTimeAugmentation, View


def build_test_time_augmentation(cfg: Config, model: nn.Module) -> nn.Module:
    """The model behind the views of TEST.BBOX_AUG; the model itself where that is not ENABLED.

    Raises ValueError, naming the key, for a model that cannot merge views.
    """
    if not cfg.TEST.BBOX_AUG.ENABLED:
        return model
    if cfg.MODEL.RPN_ONLY and not cfg.MODEL.RETINANET_ON:
        raise ValueError(
            "TEST.BBOX_AUG.ENABLED is True, but MODEL.RPN_ONLY too: the views' boxes are merged by "
            "class, and proposals have none. Set TEST.BBOX_AUG.ENABLED to False."
        )
    return TestTimeAugmentation(
        model, make_views(cfg), inclusive_pixels=cfg.MODEL.ARITHMETIC.INCLUSIVE_PIXELS
    )


def make_views(cfg: Config) -> list[View]:
    """The image as in evaluation, that mirrored, then each of SCALES and that mirrored."""
    options, style = cfg.TEST.BBOX_AUG, cfg.INPUT.RESIZE
    plain = make_resize(style, (cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST)
    views = [View(plain)] + [View(plain, mirrored=True)] * options.H_FLIP
    for scale in options.SCALES:
        resize = make_resize(style, (scale,), options.MAX_SIZE)
        views += [View(resize)] + [View(resize, mirrored=True)] * options.SCALE_H_FLIP
    return views

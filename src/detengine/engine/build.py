"""What scores in a model's place, made from the configuration."""

from collections.abc import Sequence

from torch import nn

from detengine.config.schema import Config
from detengine.data.dataset import DetectionDataset
from detengine.data.keypoints import COCO_PERSON_MIRROR, mirror_of_keypoints
from detengine.data.transforms import make_resize
from detengine.engine.tta import TestTimeAugmentation, View
from detengine.engine.tta_merging import MergingLimits, has_two_steps, sides_not_known


def build_test_time_augmentation(
    cfg: Config, model: nn.Module, *, keypoint_flip: Sequence[int] | None = COCO_PERSON_MIRROR
) -> nn.Module:
    """The model behind the views of TEST.BBOX_AUG; the model itself where that is not ENABLED.

    keypoint_flip: of each of the model's keypoints the one that takes its place in a mirror; None
    if that is not known. Raises ValueError, naming the key, for a model that cannot merge views.
    """
    if not cfg.TEST.BBOX_AUG.ENABLED:
        return model
    if cfg.MODEL.RPN_ONLY and not cfg.MODEL.RETINANET_ON:
        raise ValueError(
            "TEST.BBOX_AUG.ENABLED is True, but MODEL.RPN_ONLY too: the views' boxes are merged by "
            "class, and proposals have none. Set TEST.BBOX_AUG.ENABLED to False."
        )
    views = make_views(cfg)
    mirrors_keypoints = cfg.MODEL.KEYPOINT_ON and any(view.mirrored for view in views)
    if mirrors_keypoints and keypoint_flip is None and not has_two_steps(model):
        raise ValueError(sides_not_known("the data set's keypoints"))
    return TestTimeAugmentation(
        model,
        views,
        inclusive_pixels=cfg.MODEL.ARITHMETIC.INCLUSIVE_PIXELS,
        limits=_merging_limits(cfg),
        keypoint_flip=keypoint_flip,
    )


def keypoint_flip_of(test_sets: Sequence[DetectionDataset]) -> tuple[int, ...] | None:
    """`mirror_of_keypoints` of the first with keypoints; a person's, as COCO has it, without."""
    truths = [dataset.ground_truth() for dataset in test_sets]
    with_keypoints = [truth for truth in truths if truth.keypoints is not None]
    return mirror_of_keypoints(with_keypoints[0]) if with_keypoints else COCO_PERSON_MIRROR


def _merging_limits(cfg: Config) -> MergingLimits:
    keep_ties = cfg.MODEL.ARITHMETIC.KEEP_TIES
    if cfg.MODEL.RETINANET_ON:
        return MergingLimits(cfg.MODEL.RETINANET.NMS_TH, cfg.TEST.DETECTIONS_PER_IMG, keep_ties)
    heads = cfg.MODEL.ROI_HEADS
    return MergingLimits(heads.NMS, heads.DETECTIONS_PER_IMG, keep_ties)


def make_views(cfg: Config) -> list[View]:
    """The image as in evaluation, that mirrored, then each of SCALES and that mirrored."""
    options, style = cfg.TEST.BBOX_AUG, cfg.INPUT.RESIZE
    plain = make_resize(style, (cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST)
    views = [View(plain)] + [View(plain, mirrored=True)] * options.H_FLIP
    for scale in options.SCALES:
        resize = make_resize(style, (scale,), options.MAX_SIZE)
        views += [View(resize)] + [View(resize, mirrored=True)] * options.SCALE_H_FLIP
    return views

"""What a model is scored by, made from the configuration."""

from detengine.config.catalog import find_definition
from detengine.config.schema import Config
from detengine.evaluation.options import ScoringOptions
from detengine.evaluation.scorers import measured_tasks

METRICS_OF_FORMAT: dict[str, tuple[str, ...]] = {
    "coco": ("coco",),
    "voc": ("coco", "voc"),
    "cityscapes": ("coco", "cityscapes"),
    "lvis": ("lvis",),
    "yolo": ("coco",),
}
"""What TEST.METRICS is where it is not set, for each DatasetDefinition.FORMAT."""

PERSON_KEYPOINTS = 17
"""How many keypoints COCO's object keypoint similarity has tolerances for."""


def gives_proposals(cfg: Config) -> bool:
    """Whether the model stops at proposals; RetinaNet, whose files say RPN_ONLY too, does not."""
    return cfg.MODEL.RPN_ONLY and not cfg.MODEL.RETINANET_ON


def iou_types_of(cfg: Config) -> tuple[str, ...]:
    """What the model's predictions are scored by."""
    sigmas = cfg.TEST.KEYPOINT_SIGMAS
    tolerances = PERSON_KEYPOINTS if sigmas is None else len(sigmas)
    switched = {
        "segm": cfg.MODEL.MASK_ON,
        "keypoints": cfg.MODEL.KEYPOINT_ON
        and tolerances == cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES,
    }
    return ("bbox", *(iou_type for iou_type, is_on in switched.items() if is_on))


def build_scoring_options(
    cfg: Config, test_set: str | None, *, of_lvis: bool = False
) -> ScoringOptions:
    """How one of DATASETS.TEST is scored: by TEST.METRICS, or by what suits its format.

    test_set: None for an annotation file that is no data set of the configuration's; of_lvis: it
    is LVIS's, else COCO's.
    """
    options = cfg.TEST
    if gives_proposals(cfg):
        metrics: tuple[str, ...] = ("proposals",)
    elif options.METRICS is not None:
        metrics = options.METRICS
    elif test_set is None:
        metrics = METRICS_OF_FORMAT["lvis" if of_lvis else "coco"]
    else:
        definition, _ = find_definition(cfg.DATASETS, test_set)
        metrics = METRICS_OF_FORMAT[definition.FORMAT]
    return ScoringOptions(
        metrics=metrics,
        iou_thresholds=options.IOU_THRESHOLDS,
        area_ranges=options.AREA_RANGES,
        max_detections=options.MAX_DETECTIONS,
        keypoint_sigmas=options.KEYPOINT_SIGMAS,
        voc_iou_threshold=options.VOC_IOU_THRESHOLD,
        voc_extra_pixel=options.VOC_EXTRA_PIXEL,
    )


def tasks_of_test_set(cfg: Config, test_set: str) -> dict[str, tuple[str, ...]]:
    """The tasks that one of DATASETS.TEST is going to be scored by, with their metrics."""
    return measured_tasks(iou_types_of(cfg), build_scoring_options(cfg, test_set))

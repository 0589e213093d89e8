"""The two tables of defaults.

The predecessor's values are those of `schema`; here stands what is different under
CONVENTIONS: modern, whose numbers are torchvision's maskrcnn_resnet50_fpn and its reference
training. Defaults are resolved when a file is loaded, and any of them may be overridden.
"""

from typing import Any

from detengine.config.schema import Config, Conventions

_PYRAMID_SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)

MODERN: dict[str, Any] = {
    "CONVENTIONS": "modern",
    "MODEL": {
        "DEVICE": "auto",
        "INITIALISATION": "torchvision",
        "ARITHMETIC": {
            "INCLUSIVE_PIXELS": False,
            "ANCHORS": "torchvision",
            "ROI_LEVELS": "torchvision",
            "FROZEN_BN_EPSILON": 1e-5,
            "KEEP_TIES": False,
            "MIN_DETECTION_SIZE": 1e-2,
        },
        "BACKBONE": {"CONV_BODY": "R-50-FPN"},
        "RESNETS": {"STRIDE_IN_1X1": False, "BACKBONE_OUT_CHANNELS": 256},
        "RPN": {
            "USE_FPN": True,
            "ANCHOR_STRIDE": (4, 8, 16, 32, 64),
            "STRADDLE_THRESH": -1,
            "PRE_NMS_TOP_N_TRAIN": 2000,
            "PRE_NMS_TOP_N_TEST": 1000,
            "FPN_POST_NMS_TOP_N_TEST": 1000,
            "FPN_POST_NMS_PER_BATCH": False,
            "MIN_SIZE": 1e-3,
        },
        "ROI_HEADS": {"USE_FPN": True},
        "ROI_BOX_HEAD": {
            "FEATURE_EXTRACTOR": "FPN2MLPFeatureExtractor",
            "PREDICTOR": "FPNPredictor",
            "POOLER_RESOLUTION": 7,
            "POOLER_SAMPLING_RATIO": 2,
            "POOLER_SCALES": _PYRAMID_SCALES,
            "NUM_CLASSES": None,
            "SMOOTH_L1_BETA": 1 / 9,
        },
        "ROI_MASK_HEAD": {
            "FEATURE_EXTRACTOR": "MaskRCNNFPNFeatureExtractor",
            "POOLER_SAMPLING_RATIO": 2,
            "POOLER_SCALES": _PYRAMID_SCALES,
            "RESOLUTION": 28,
            "SHARE_BOX_FEATURE_EXTRACTOR": False,
        },
        "ROI_KEYPOINT_HEAD": {
            "POOLER_SAMPLING_RATIO": 2,
            "POOLER_SCALES": _PYRAMID_SCALES,
            "RESOLUTION": 56,
            "SHARE_BOX_FEATURE_EXTRACTOR": False,
        },
        "RETINANET": {"NUM_CLASSES": None},
    },
    "INPUT": {
        "RESIZE": "torch",
        "TO_BGR255": False,
        "PIXEL_MEAN": (0.485, 0.456, 0.406),
        "PIXEL_STD": (0.229, 0.224, 0.225),
    },
    "DATALOADER": {"NUM_WORKERS": 2, "SIZE_DIVISIBILITY": None},
    "SOLVER": {
        "MAX_ITER": 90000,
        "BASE_LR": 0.02,
        "BIAS_LR_FACTOR": 1.0,
        "WEIGHT_DECAY": 1e-4,
        "WEIGHT_DECAY_BIAS": 1e-4,
        "STEPS": (60000, 80000),
        "WARMUP_FACTOR": 1e-3,
        "WARMUP_ITERS": 1000,
    },
    "TEST": {"VOC_EXTRA_PIXEL": False},
}


def defaults(conventions: Conventions) -> dict[str, Any]:
    """Every option's default under the given CONVENTIONS, nested as in a file."""
    values = Config().model_dump()
    return _merged(values, MODERN) if conventions == "modern" else values


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return values | {
        key: _merged(values[key], change) if isinstance(change, dict) else change
        for key, change in changes.items()
    }

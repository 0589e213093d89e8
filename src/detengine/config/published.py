"""The configurations of detectors that torchvision publishes, where they are of our families."""

from typing import Any

from detengine.config.load import load_config
from detengine.config.schema import Config

_COCO_LABELS = 91
"""With the background, and with ten numbers that COCO does not use."""

_FASTER: dict[str, Any] = {"MODEL.ROI_BOX_HEAD.NUM_CLASSES": _COCO_LABELS}
_MASK = {**_FASTER, "MODEL.MASK_ON": True}
_KEYPOINT: dict[str, Any] = {"MODEL.ROI_BOX_HEAD.NUM_CLASSES": 2, "MODEL.KEYPOINT_ON": True}
_V2: dict[str, Any] = {
    "MODEL.BACKBONE.NORM": "BN",
    "MODEL.FPN.NORM": "BN",
    "MODEL.RPN.NUM_CONVS": 2,
    "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR": "FPNXconv1fcFeatureExtractor",
    "MODEL.ROI_BOX_HEAD.NORM": "BN",
}

TORCHVISION_DETECTORS = {
    "fasterrcnn_resnet50_fpn": _FASTER,
    "fasterrcnn_resnet50_fpn_v2": _FASTER | _V2,
    "keypointrcnn_resnet50_fpn": _KEYPOINT,
    "maskrcnn_resnet50_fpn": _MASK,
    "maskrcnn_resnet50_fpn_v2": _MASK | _V2 | {"MODEL.ROI_MASK_HEAD.NORM": "BN"},
}
"""By torchvision's name, what differs from CONVENTIONS: modern (torchvision/models/detection/
mask_rcnn.py and its neighbours). Its RetinaNets' anchors have whole sides, which ours have not; the
second's head has group norm; FCOS and SSD are of no family of ours."""


def config_of_torchvision(name: str, device: str = "auto") -> Config:
    """The configuration of one of TORCHVISION_DETECTORS. device: its MODEL.DEVICE.

    Raises ValueError for another model.
    """
    if name not in TORCHVISION_DETECTORS:
        raise ValueError(
            f"torchvision's {name} has no configuration here; known are "
            f"{', '.join(TORCHVISION_DETECTORS)}. Any of torchvision's detectors can be used by a "
            "configuration of your own, with a MODEL.BUILDER that builds it."
        )
    changes = {**TORCHVISION_DETECTORS[name], "MODEL.DEVICE": device}
    pairs = [each for pair in changes.items() for each in pair]
    return load_config(None, ["CONVENTIONS", "modern", *pairs])

"""The few kinds of training there are: on which device, from which weights, for how long.

The numbers of a CPU come from this repository's configs (bccd.yaml, nuclei.yaml, bccd_r50.yaml),
whose headers have results and times; those of a GPU from torchvision's and detectron2's
fine-tuning, where a batch of 16 has a learning rate of 0.02.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SMALL = {
    "MODEL.BACKBONE.CONV_BODY": "R-18-FPN",
    "MODEL.BACKBONE.NORM": "GN",
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 32,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 128,
}
_GROUP_NORM = {
    "MODEL.BACKBONE.NORM": "GN",
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0,
    "MODEL.FPN.NORM": "GN",
}
_ADAM = {"SOLVER.OPTIMIZER": "adamw", "SOLVER.SCHEDULE": "onecycle", "SOLVER.WEIGHT_DECAY": 0.05}
_SGD: dict[str, Any] = {}


@dataclass(frozen=True)
class Plan:
    """How one kind of training goes.

    epochs: over the training images, between the iterations least and most (most_masks: with a
    mask or keypoint head). images: of a batch, on each process. lr: at that batch and one process.
    model, solver: keys. smallest, largest, wanted: of images and objects, as `choose_sizes` takes
    them. is_small: anchors, regions and crops for a CPU. words: what the model is.
    """

    words: str
    epochs: int
    least: int
    most: int
    most_masks: int
    images: int
    lr: float
    model: Mapping[str, Any]
    solver: Mapping[str, Any]
    smallest: int
    largest: int
    wanted: float
    is_small: bool


CPU_FROM_SCRATCH = Plan(
    "half of ResNet-18's width under a feature pyramid, with group norm",
    epochs=40, least=500, most=1400, most_masks=1000, images=4, lr=0.002,
    model=_SMALL, solver=_ADAM, smallest=320, largest=640, wanted=16, is_small=True,
)  # fmt: skip
CPU_FROM_TRUNK = Plan(
    "a ResNet under a feature pyramid",
    epochs=15, least=300, most=600, most_masks=400, images=2, lr=0.0003,
    model={}, solver=_ADAM | {"SOLVER.CLIP_NORM": 10.0},
    smallest=320, largest=640, wanted=16, is_small=True,
)  # fmt: skip
GPU_FROM_SCRATCH = Plan(
    "ResNet-50 under a feature pyramid, with group norm",
    epochs=100, least=3000, most=60000, most_masks=60000, images=8, lr=0.01,
    model=_GROUP_NORM, solver=_SGD, smallest=800, largest=1333, wanted=24, is_small=False,
)  # fmt: skip
GPU_FROM_TRUNK = Plan(
    "a ResNet under a feature pyramid",
    epochs=36, least=1500, most=40000, most_masks=40000, images=8, lr=0.01,
    model={}, solver=_SGD, smallest=800, largest=1333, wanted=24, is_small=False,
)  # fmt: skip
GPU_FROM_DETECTOR = Plan(
    "a ResNet under a feature pyramid",
    epochs=20, least=500, most=20000, most_masks=20000, images=8, lr=0.005,
    model={}, solver=_SGD, smallest=800, largest=1333, wanted=24, is_small=False,
)  # fmt: skip
CPU_FROM_DETECTOR = Plan(
    "a ResNet under a feature pyramid",
    epochs=5, least=200, most=300, most_masks=250, images=2, lr=0.0002,
    model={}, solver=_ADAM | {"SOLVER.CLIP_NORM": 10.0},
    smallest=320, largest=640, wanted=16, is_small=True,
)  # fmt: skip

DEFAULT_WEIGHTS = {
    ("cpu", "bbox"): "torchvision://resnet18",
    ("cpu", "segm"): "torchvision://resnet18",
    ("cpu", "keypoints"): "torchvision://resnet18",
    ("gpu", "bbox"): "torchvision://fasterrcnn_resnet50_fpn_v2",
    ("gpu", "segm"): "torchvision://maskrcnn_resnet50_fpn_v2",
    ("gpu", "keypoints"): "torchvision://keypointrcnn_resnet50_fpn",
}
"""By the device and what is learnt."""


def plan_for(device: str, *, has_weights: bool, is_detector: bool) -> Plan:
    """device: cpu or gpu."""
    if device == "cpu":
        if not has_weights:
            return CPU_FROM_SCRATCH
        return CPU_FROM_DETECTOR if is_detector else CPU_FROM_TRUNK
    if not has_weights:
        return GPU_FROM_SCRATCH
    return GPU_FROM_DETECTOR if is_detector else GPU_FROM_TRUNK

"""Every kind of detector, small, on the tiny run's data; and keypoints for these."""

import json
from pathlib import Path
from typing import Any

SMALL: dict[str, Any] = {
    "SOLVER.MAX_ITER": 4,
    "SOLVER.TEST_PERIOD": 2,
    "SOLVER.LOG_PERIOD": 1,
    "INPUT.MIN_SIZE_TRAIN": (56, 64, 72),
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.BRIGHTNESS": 0.2,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.ROI_HEADS.SCORE_THRESH": 0.0,
    "TEST.PICTURES": 1,
}
VIEWS = {
    "TEST.BBOX_AUG.ENABLED": True,
    "TEST.BBOX_AUG.H_FLIP": True,
    "TEST.BBOX_AUG.SCALES": (64,),
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Mask R-CNN": {"MODEL.MASK_ON": True},
    "Faster R-CNN, the predecessor's arithmetic": {
        "MODEL.MASK_ON": False,
        "MODEL.ARITHMETIC.INCLUSIVE_PIXELS": True,
        "INPUT.RESIZE": "pillow",
        "SOLVER.OPTIMIZER": "sgd",
        "SOLVER.CLIP_NORM": 1.0,
    },
    "Keypoint R-CNN": {
        "MODEL.MASK_ON": False,
        "MODEL.KEYPOINT_ON": True,
        "MODEL.ROI_KEYPOINT_HEAD.POOLER_SCALES": (0.25, 0.125),
        "MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS": (16,),
    },
    "proposals": {"MODEL.MASK_ON": False, "MODEL.RPN_ONLY": True},
    "RetinaNet": {
        "MODEL.MASK_ON": False,
        "MODEL.BACKBONE.CONV_BODY": "R-50-FPN-RETINANET",
        "MODEL.RETINANET_ON": True,
        "MODEL.RETINANET.NUM_CLASSES": 4,
        "MODEL.RETINANET.NUM_CONVS": 1,
        "MODEL.RETINANET.INFERENCE_TH": 0.0,
    },
    "torchvision's Mask R-CNN, adapted": {
        "MODEL.BUILDER": "adapted_detectors:mask_rcnn",
        "DETERMINISTIC": True,
    },
    "a body of timm's": {
        "MODEL.BACKBONE.CONV_BODY": "timm:test_resnet",
        "MODEL.BACKBONE.NORM": "FrozenBN",
    },
    "static shapes, bfloat16, averages": {
        "MODEL.STATIC_SHAPES": True,
        "DTYPE": "bfloat16",
        "SOLVER.EMA_DECAY": 0.9,
    },
    "repeats, accumulation, several views, test losses": {
        "SOLVER.ACCUMULATE": 2,
        "DATALOADER.REPEAT_THRESHOLD": 0.9,
        "TEST.LOSS": True,
        **VIEWS,
    },
}


def add_keypoints(path: Path) -> None:
    """17 on the diagonal of each box."""
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        steps = [(k + 0.5) / 17 for k in range(17)]
        annotation["keypoints"] = [
            each for step in steps for each in (x + step * width, y + step * height, 2)
        ]
        annotation["num_keypoints"] = 17
    path.write_text(json.dumps(content))

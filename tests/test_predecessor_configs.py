"""Every configuration file of the predecessor: built at its full size, and run at a small one."""

import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detengine.config.load import load_config
from detengine.config.schema import Config
from detengine.modeling.build import build_detection_model
from detengine.solver.build import make_optimizer
from detengine.structures.masks import RunLengthMasks

CONFIGS = Path(__file__).parents[1] / "../shared/golden/configs"
FILES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))
TABLE = Path(__file__).parents[1] / "docs/predecessor.md"

pytestmark = pytest.mark.skipif(not FILES, reason="../shared is absent")

SMALL: list[Any] = [
    "MODEL.DEVICE", "cpu",
    "MODEL.WEIGHT", "",
    "MODEL.RESNETS.STEM_OUT_CHANNELS", 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS", 32,
    "MODEL.ROI_BOX_HEAD.NUM_CLASSES", 5,
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32,
    "MODEL.ROI_BOX_HEAD.CONV_HEAD_DIM", 16,
    "MODEL.ROI_MASK_HEAD.CONV_LAYERS", "(16, 16)",
    "MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS", "(16, 16)",
    "MODEL.GROUP_NORM.NUM_GROUPS", 8,
    "MODEL.RETINANET.NUM_CLASSES", 5,
    "MODEL.FBNET.SCALE_FACTOR", 0.5,
    "MODEL.RPN.PRE_NMS_TOP_N_TRAIN", 200,
    "MODEL.RPN.POST_NMS_TOP_N_TRAIN", 60,
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN", 60,
    "MODEL.RPN.PRE_NMS_TOP_N_TEST", 100,
    "MODEL.RPN.POST_NMS_TOP_N_TEST", 30,
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST", 30,
    "MODEL.ROI_HEADS.SCORE_THRESH", 0.01,
    "MODEL.RPN.STRADDLE_THRESH", -1,
]  # fmt: skip


@cache
def table() -> dict[str, int]:
    """The parameters of each configuration as the documents give them."""
    rows = re.findall(r"^\| `(\S+\.yaml)` \| ([\d,]+) \|", TABLE.read_text(), re.MULTILINE)
    return {name: int(count.replace(",", "")) for name, count in rows}


@pytest.mark.parametrize("name", FILES)
def test_it_builds_at_full_size_with_the_documented_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        model = build_detection_model(load_config(CONFIGS / name))
    assert sum(parameter.numel() for parameter in model.parameters()) == table()[name]


@pytest.mark.parametrize("name", FILES)
def test_it_takes_a_training_step_and_an_evaluation_step(name: str) -> None:
    torch.manual_seed(0)
    cfg = small(name)
    model = build_detection_model(cfg)
    images, targets = make_batch()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    losses = model.train()(images, targets)
    assert losses.keys() == expected_losses(cfg)
    sum(losses.values()).backward()
    assert all(math.isfinite(float(loss.detach())) for loss in losses.values())
    make_optimizer(cfg, model).step()
    assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())
    with torch.inference_mode():
        outputs = model.eval()(images)
    assert [output.keys() for output in outputs] == [expected_fields(cfg)] * 2


def small(name: str) -> Config:
    """The configuration with few channels and few proposals."""
    full = load_config(CONFIGS / name)
    body, groups = full.MODEL.BACKBONE.CONV_BODY, full.MODEL.RESNETS.NUM_GROUPS
    width = 1 if groups > 1 else 8
    channels = 16 if full.MODEL.RPN.USE_FPN or full.MODEL.RETINANET_ON else 128
    of_body = [
        "MODEL.RESNETS.WIDTH_PER_GROUP", width,
        "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", channels,
    ]  # fmt: skip
    return load_config(CONFIGS / name, SMALL + ([] if body == "FBNet" else of_body))


def make_batch() -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Two images with two objects each."""
    sizes = [(96, 128), (128, 96)]
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    return images, [make_target(size) for size in sizes]


def make_target(size: tuple[int, int]) -> dict[str, Any]:
    boxes = torch.tensor([[10.0, 12, 60, 70], [40.0, 30, 90, 80]])
    pixels = size[0] * size[1]
    runs = torch.tensor([0, pixels])
    points = boxes[:, None, :2] + torch.rand(2, 17, 2) * (boxes[:, None, 2:] - boxes[:, None, :2])
    return {
        "boxes": boxes,
        "labels": torch.tensor([1, 1]),
        "masks": RunLengthMasks.from_counts([runs, runs], size),
        "keypoints": torch.cat([points, torch.full((2, 17, 1), 2.0)], dim=2),
        "image_size": torch.tensor(size),
        "original_size": torch.tensor(size),
    }


def expected_losses(cfg: Config) -> set[str]:
    if cfg.MODEL.RETINANET_ON:
        return {"loss_retina_cls", "loss_retina_reg"}
    losses = {"loss_objectness", "loss_rpn_box_reg"}
    if not cfg.MODEL.RPN_ONLY:
        losses |= {"loss_classifier", "loss_box_reg"}
    if cfg.MODEL.MASK_ON:
        losses.add("loss_mask")
    return losses | ({"loss_kp"} if cfg.MODEL.KEYPOINT_ON else set())


def expected_fields(cfg: Config) -> set[str]:
    if cfg.MODEL.RPN_ONLY and not cfg.MODEL.RETINANET_ON:  # whose files say RPN_ONLY too
        return {"boxes", "scores"}
    fields = {"boxes", "scores", "labels"}
    if cfg.MODEL.MASK_ON:
        fields.add("mask_probs")
    return fields | ({"keypoints", "keypoints_scores"} if cfg.MODEL.KEYPOINT_ON else set())


def test_the_documents_list_every_configuration_and_no_other() -> None:
    assert sorted(table()) == FILES

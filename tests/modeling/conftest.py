"""Small configurations, images and targets for the models."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detengine.config.load import load_config
from detengine.config.schema import Config
from detengine.structures.masks import RunLengthMasks
from detengine.structures.target import Target

SMALL_HEADS = {
    "MODEL.BACKBONE.CONV_BODY": "R-18-FPN",
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": "0",
    "MODEL.MASK_ON": "True",
    "MODEL.ROI_BOX_HEAD.NUM_CLASSES": "4",
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": "64",
    "MODEL.ROI_MASK_HEAD.CONV_LAYERS": "[32]",
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN": "200",
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST": "100",
}

NARROW = SMALL_HEADS | {
    "MODEL.BACKBONE.NORM": "GN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": "16",
    "MODEL.RESNETS.RES2_OUT_CHANNELS": "64",
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": "48",
    "MODEL.RPN.ANCHOR_STRIDE": "[4, 8, 16]",
    "MODEL.RPN.ANCHOR_SIZES": "[16, 32, 64]",
    "MODEL.ROI_BOX_HEAD.POOLER_SCALES": "[0.25, 0.125, 0.0625]",
    "MODEL.ROI_MASK_HEAD.POOLER_SCALES": "[0.25, 0.125, 0.0625]",
}


@pytest.fixture
def make_config() -> Callable[..., Config]:
    """(overrides) -> the modern configuration with them; without any, its defaults."""

    def make(overrides: dict[str, str] | None = None) -> Config:
        pairs = {"CONVENTIONS": "modern"} | (overrides or {})
        return load_config(None, [part for pair in pairs.items() for part in pair])

    return make


@pytest.fixture
def small_heads() -> dict[str, str]:
    """Overrides: ResNet-18 of full width under small heads, every parameter trained, 3 classes."""
    return dict(SMALL_HEADS)


@pytest.fixture
def narrow() -> dict[str, str]:
    """Overrides: a narrow GroupNorm ResNet-18 under three levels."""
    return dict(NARROW)


@pytest.fixture
def images() -> list[Tensor]:
    """Two of different sizes, neither of them a multiple of 32."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
        for size in [(96, 140), (120, 96)]
    ]


@pytest.fixture
def make_targets() -> Callable[..., list[Target]]:
    """(images, objects in each) -> targets with ellipses as masks, labels 1 to 3."""

    def make(images: Sequence[Tensor], counts: Sequence[int]) -> list[Target]:
        generator = torch.Generator().manual_seed(1)
        return [
            _ellipses((image.shape[1], image.shape[2]), count, generator)
            for image, count in zip(images, counts, strict=True)
        ]

    return make


def _ellipses(size: tuple[int, int], count: int, generator: torch.Generator) -> Target:
    whole = torch.tensor([size[1], size[0]])
    extent = 12 + torch.rand(count, 2, generator=generator) * (whole / 2 - 12)
    corner = torch.rand(count, 2, generator=generator) * (whole - extent)
    boxes = torch.cat([corner, corner + extent], dim=1)
    x, y = torch.arange(size[1]) + 0.5, torch.arange(size[0]) + 0.5
    offset_x = (x - boxes[:, 0::2].mean(1, keepdim=True)) / (extent[:, :1] / 2)
    offset_y = (y - boxes[:, 1::2].mean(1, keepdim=True)) / (extent[:, 1:] / 2)
    dense = offset_y[:, :, None] ** 2 + offset_x[:, None, :] ** 2 <= 1
    return {
        "boxes": boxes,
        "labels": torch.randint(1, 4, (count,), generator=generator),
        "masks": RunLengthMasks.from_counts([_runs(mask) for mask in dense], size),
        "image_size": torch.tensor(size),
        "original_size": torch.tensor(size),
    }


def _runs(mask: Tensor) -> Tensor:
    """COCO's run lengths of a dense mask."""
    column_by_column = mask.t().flatten().int()
    changes = column_by_column.diff(prepend=torch.zeros(1, dtype=torch.int32)).nonzero()[:, 0]
    return torch.tensor([0, *changes.tolist(), mask.numel()]).diff()


@pytest.fixture
def calibrate() -> Callable[[nn.Module], None]:
    """(model) makes random weights of a Mask R-CNN speak up: scores and boxes spread out."""

    def speak_up(model: Any) -> None:
        with torch.no_grad():
            model.backbone.body.bn1.weight.mul_(0.05)
            model.rpn.head.cls_logits.weight.mul_(10)
            model.roi_heads.box_predictor.cls_score.weight.mul_(5)

    return speak_up

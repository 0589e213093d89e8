"""A detector for MODEL.BUILDER with everything that a forward can change: norms, dropout, a buffer.

It draws numbers, too. `not_a_number` gives losses that are none, where no gradient is computed.
"""

from typing import Any

import torch
from torch import Tensor, nn


class RestlessDetector(nn.Module):
    """Predicts one box for each image."""

    def __init__(self, loss_without_gradient: float) -> None:
        super().__init__()
        self.loss_without_gradient = loss_without_gradient
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3)
        )
        self.box = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        features = [
            self.features(image[None].float() / 255).mean(dim=(0, 2, 3)) for image in images
        ]
        boxes = self.box(torch.stack(features))
        if not self.training:
            return [
                {
                    "boxes": torch.tensor([[0.0, 0.0, 9.0, 9.0]]) + box.sigmoid(),
                    "scores": box[:1].sigmoid(),
                    "labels": torch.ones(1, dtype=torch.int64),
                }
                for box in boxes
            ]
        self.seen += len(images)
        factor = 1.0 if torch.is_grad_enabled() else self.loss_without_gradient
        noise = torch.rand(boxes.shape)
        return {"loss_box": (boxes - noise / (1 + self.seen)).square().mean() * factor}


def build(cfg: Any) -> nn.Module:
    return RestlessDetector(1.0)


def not_a_number(cfg: Any) -> nn.Module:
    return RestlessDetector(float("nan"))

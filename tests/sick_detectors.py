"""Detectors for MODEL.BUILDER that fail in training, each in its own way, and one that does not."""

from typing import Any

import torch
from torch import Tensor, nn


class Detector(nn.Module):
    """One weight, whose square is the loss. It finds nothing."""

    def __init__(self, ailment: str) -> None:
        super().__init__()
        self.ailment = ailment
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        if not self.training:
            nothing = {
                "boxes": torch.empty(0, 4),
                "scores": torch.empty(0),
                "labels": torch.empty(0, dtype=torch.int64),
            }
            return [nothing for _ in images]
        if self.ailment == "greedy":
            torch.empty(1 << 60)
        if self.ailment == "broken":
            raise KeyError("no such layer")
        factor = float("nan") if self.ailment == "not_a_number" else 1.0
        return {"loss_of_weight": (self.weight * factor).square().sum()}


def greedy(cfg: Any) -> nn.Module:
    """Asks for more memory than there is."""
    return Detector("greedy")


def broken(cfg: Any) -> nn.Module:
    return Detector("broken")


def not_a_number(cfg: Any) -> nn.Module:
    return Detector("not_a_number")


def sound(cfg: Any) -> nn.Module:
    return Detector("")

"""Detectors for MODEL.BUILDER with operators whose last bits change from run to run."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, interpolate


class Warp(nn.Module):
    """Samples a map where it is, through grid_sample."""

    def forward(self, features: Tensor) -> Tensor:
        identity = torch.eye(2, 3).expand(len(features), 2, 3)
        grid = affine_grid(identity, list(features.shape), align_corners=False)
        return grid_sample(features, grid, align_corners=False)


class Enlarge(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, features: Tensor) -> Tensor:
        return interpolate(features, scale_factor=2, mode=self.mode)


class Put(nn.Module):
    """Adds what is written into a buffer with `put_`, which has no deterministic form anywhere."""

    def forward(self, features: Tensor) -> Tensor:
        counts = torch.zeros(2)
        counts.put_(torch.tensor([0, 1, 1]), torch.ones(3))
        return features + counts.sum()


class Middle(nn.Module):
    """The median over channels, in evaluation only."""

    def forward(self, features: Tensor) -> Tensor:
        return features if self.training else features.median(dim=1, keepdim=True).values


class RestlessDetector(nn.Module):
    """One loss, of what the neck makes of the stem's map; it finds nothing. Keeps statistics."""

    def __init__(self, *necks: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.1))
        self.neck = nn.Sequential(*necks)

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        maps = [self.neck(self.stem(image[None].float() / 255)) for image in images]
        if self.training:
            return {"loss_map": torch.stack([each.square().mean() for each in maps]).mean()}
        nothing = {
            "boxes": torch.empty(0, 4),
            "scores": torch.empty(0),
            "labels": torch.empty(0, dtype=torch.int64),
        }
        return [nothing for _ in images]


def putting(cfg: Any) -> nn.Module:
    return RestlessDetector(Put(), Warp())


def quiet(cfg: Any) -> nn.Module:
    return RestlessDetector(Enlarge("nearest"))


class ForTraining(RestlessDetector):
    """Refuses to be evaluated."""

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        if not self.training:
            raise ValueError("this model is never evaluated")
        return super().forward(images, targets)


def never_evaluated(cfg: Any) -> nn.Module:
    return ForTraining()

"""A detector with batch norm that is not finite where a target says so, or an image is empty."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detengine.structures.batch import Batch

FAULTS = ("infinite loss", "gradient", "nothing to learn from")
"""Finite gradients of an infinite loss; a NaN gradient of a finite loss; the mean of no values."""


class FaultyDetector(nn.Module):
    """targets: the first may have a `fault`, of FAULTS, or a loss `extra`. Losses are means."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.linear = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, images: list[Tensor], targets: Any = None) -> dict[str, Tensor]:
        features = self.norm(self.conv(torch.stack(images).float() / 255)).relu().mean((2, 3))
        first, second = self.linear(features).unbind(1)
        losses = {"loss_first": (first - 1).square().mean(), "loss_second": second.abs().mean()}
        fault = targets[0].get("fault")
        if fault == "infinite loss":
            losses["loss_first"] = losses["loss_first"] + torch.inf
        elif fault == "gradient":
            same = self.linear.weight - self.linear.weight.detach()
            losses["loss_first"] = losses["loss_first"] + same.square().sum().sqrt()
        elif fault == "nothing to learn from":
            losses = {"loss_first": first[:0].mean()}
        if "extra" in targets[0]:
            losses["loss_extra"] = first.abs().mean()
        return losses


class FaultyLoader:
    """One image a micro-batch, of id 10 * iteration + rank, iterations counted from 1.

    targets: the first target of an iteration. micro_batches: of each, with ids 100 apart.
    """

    def __init__(
        self, length: int, rank: int, targets: Mapping[int, dict[str, Any]], micro_batches: int = 1
    ) -> None:
        self.length, self.rank = length, rank
        self.targets, self.micro_batches = targets, micro_batches

    def __len__(self) -> int:
        return self.length * self.micro_batches

    def __iter__(self) -> Iterator[Batch]:
        for iteration in range(1, self.length + 1):
            for number in range(self.micro_batches):
                image_id = 100 * number + 10 * iteration + self.rank
                generator = torch.Generator().manual_seed(image_id)
                image = torch.randint(0, 256, (3, 9, 8), generator=generator, dtype=torch.uint8)
                target = {} if number else self.targets.get(iteration, {})
                yield Batch([image], [target], [image_id])


class MeanOverObjects(nn.Module):
    """The mistake of many a loss: it divides by the number of an image's objects."""

    def forward(self, values: Tensor, boxes: Tensor) -> Tensor:
        return values.sum() / len(boxes)


class PerObjectDetector(nn.Module):
    """Trains on every image but one without objects."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.AdaptiveAvgPool2d(1))
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(4, 1)
        self.mean = MeanOverObjects()

    def forward(self, images: list[Tensor], targets: Any = None) -> dict[str, Tensor]:
        values = [
            self.mean(self.linear(self.dropout(self.features(image).flatten())), target["boxes"])
            for image, target in zip(images, targets, strict=True)
        ]
        return {"loss_count": (torch.stack(values) - 1).square().mean()}


def per_object(cfg: Any) -> nn.Module:
    return PerObjectDetector()

"""A detector of four parameters, its data, and its ground truth: small, real, and quick."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from detengine.checkpoint.checkpointer import Checkpointer
from detengine.structures.batch import Batch
from detengine.structures.categories import Categories
from detengine.structures.ground_truth import GroundTruth, PackedBytes


class ToyDetector(nn.Module):
    """Losses are means over images; in evaluation each image has one box, its own size."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -0.3, 0.2]))
        self.bias = nn.Parameter(torch.tensor([0.1]))
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None):
        features = torch.stack([image.float().mean(dim=(1, 2)) / 255 for image in images])
        scores = features @ self.weight + self.bias
        if self.training:
            return {"loss_first": (scores - 1).square().mean(), "loss_second": scores.abs().mean()}
        return [
            {
                "boxes": torch.tensor([[0.0, 0.0, image.shape[2], image.shape[1]]]),
                "scores": torch.tensor([0.9]),
                "labels": torch.tensor([1]),
            }
            for image in images
        ]


class ToyLoader:
    """`length` batches of `batch_size` images from `start` on; batch i is a function of i."""

    def __init__(self, length: int, batch_size: int = 2, start: int = 0) -> None:
        self.length, self.batch_size, self.start = length, batch_size, start

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self.start, self.length):
            ids = list(range(number * self.batch_size, (number + 1) * self.batch_size))
            yield Batch([toy_image(i) for i in ids], [{} for _ in ids], ids)


class ToyDataset:
    """Images whose only object fills the upper-left quarter-scale image the model sees."""

    class_names = ("thing",)

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images

    def __len__(self) -> int:
        return self.num_images

    def ground_truth(self) -> GroundTruth:
        count = self.num_images
        return GroundTruth(
            categories=Categories(("thing",), (7,)),
            image_ids=torch.arange(count) + 100,
            image_sizes=torch.tensor([[20, 40]]).repeat(count, 1),
            file_names=PackedBytes.from_list([b"none.png"] * count),
            offsets=torch.arange(count + 1),
            annotation_ids=torch.arange(count) + 1,
            category_ids=torch.full((count,), 7),
            boxes_xywh=torch.tensor([[0.0, 0.0, 40.0, 20.0]]).double().repeat(count, 1),
            areas=torch.full((count,), 800.0).double(),
            is_crowd=torch.zeros(count, dtype=torch.bool),
            is_difficult=torch.zeros(count, dtype=torch.bool),
        )


class ToyEvaluationLoader:
    """Images of 10 x 20 that stand for stored ones of 20 x 40."""

    def __init__(self, dataset: ToyDataset, image_ids: list[int], batch_size: int = 2) -> None:
        self.dataset, self.image_ids, self.batch_size = dataset, image_ids, batch_size

    def __len__(self) -> int:
        return -(-len(self.image_ids) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.image_ids), self.batch_size):
            ids = self.image_ids[start : start + self.batch_size]
            target = {
                "image_size": torch.tensor([10, 20]),
                "original_size": torch.tensor([20, 40]),
            }
            images = [torch.zeros(3, 10, 20, dtype=torch.uint8) for _ in ids]
            yield Batch(images, [target for _ in ids], ids)


def toy_image(index: int) -> Tensor:
    generator = torch.Generator().manual_seed(index)
    return torch.randint(0, 256, (3, 4, 5), generator=generator, dtype=torch.uint8)


@pytest.fixture
def detector() -> ToyDetector:
    return ToyDetector()


@pytest.fixture
def make_loader() -> type[ToyLoader]:
    return ToyLoader


@pytest.fixture
def make_evaluation_loader() -> Callable[..., ToyEvaluationLoader]:
    def make(num_images: int, image_ids: list[int] | None = None) -> ToyEvaluationLoader:
        dataset = ToyDataset(num_images)
        ids = dataset.ground_truth().image_ids.tolist() if image_ids is None else image_ids
        return ToyEvaluationLoader(dataset, ids)

    return make


@pytest.fixture
def make_sgd() -> Callable[[nn.Module], torch.optim.Optimizer]:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)

    return make


@pytest.fixture
def make_checkpointer(tmp_path: Path) -> Callable[..., Checkpointer]:
    def make(model: nn.Module, optimizer=None, scheduler=None, folder: str = "run") -> Checkpointer:
        (tmp_path / folder).mkdir(exist_ok=True)
        return Checkpointer(model, optimizer, scheduler, save_dir=str(tmp_path / folder))

    return make

"""Losses on a test set: the numbers, and that measuring them leaves no trace."""

import math
import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.ops import StochasticDepth

from detengine.engine.model_mode import loss_mode
from detengine.engine.phase import position_of
from detengine.engine.stopping import StopRequestedError
from detengine.engine.validation_loss import validation_loss
from detengine.modeling.adapters import adapt
from detengine.structures.batch import Batch

CPU = torch.device("cpu")


class Restless(nn.Module):
    """Has everything that training changes or draws; `level` is its loss without any of it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.BatchNorm1d(3, momentum=0.5), nn.Dropout(0.5))
        self.heads = nn.ModuleList([nn.MultiheadAttention(4, 2, dropout=0.5)])
        self.level = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("replaced", torch.ones(2))
        self.register_buffer("absent", None)

    def forward(self, images: list[Tensor], targets: Any = None) -> dict[str, Tensor]:
        assert self.training
        means = torch.stack([image.float().mean(dim=(1, 2)) for image in images])
        self.calls += 1
        self.replaced = self.replaced * 2
        self.absent = means
        self.register_buffer("added", means)
        drawn = torch.rand(()) + random.random() + np.random.rand()
        attended, _ = self.heads[0](*[means.new_ones(5, 4)] * 3)
        return {
            "loss_level": self.level * means.mean() / 255,
            "loss_layers": self.inner(means).mean() + attended.mean(),
            "loss_state": self.calls + self.replaced.sum(),
            "loss_drawn": drawn,
        }


class Losses(nn.Module):
    """Gives for each batch what `of` makes of its images."""

    def __init__(self, of: Callable[[list[Tensor]], Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.of = of

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        return self.of(images)


def drawn_state() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]


def batches_of(*values: list[float]) -> list[Batch]:
    """One batch of images for each list, each image of one value; ids 0, 1, ..."""
    batches, number = [], 0
    for batch in values:
        ids = list(range(number, number := number + len(batch)))
        images = [torch.full((3, 2, 2), float(value)) for value in batch]
        batches.append(Batch(images, [{} for _ in ids], ids))
    return batches


def mean_of(images: list[Tensor]) -> Tensor:
    return torch.stack([image.mean() for image in images]).mean()


def test_every_image_counts_alike_however_large_its_batch_is() -> None:
    model = Losses(lambda images: {"a": mean_of(images), "b": 2 * mean_of(images)})
    losses = validation_loss(model, batches_of([1, 2, 3], [10]), CPU)
    assert losses == {"loss": 12.0, "a": 4.0, "b": 8.0}


def test_a_loss_that_a_batch_lacks_counts_as_zero_there() -> None:
    def of(images: list[Tensor]) -> dict[str, Tensor]:
        return {"a": mean_of(images)} | ({"b": mean_of(images)} if len(images) > 1 else {})

    assert validation_loss(Losses(of), batches_of([5], [1, 3], [1]), CPU) == {
        "loss": 3.5,
        "a": 2.5,
        "b": 1.0,
    }


def test_the_order_of_the_batches_changes_no_bit() -> None:
    model = Losses(lambda images: {"a": mean_of(images).exp()})
    batches = batches_of(*([i * 0.37 - 9, 0.1 * i] for i in range(40)), [3.3])
    assert validation_loss(model, batches, CPU) == validation_loss(model, batches[::-1], CPU)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([math.nan, 1.0], math.nan), ([math.inf, 1.0], math.inf), ([math.inf, -math.inf], math.nan)],
)
def test_a_loss_that_is_not_finite_is_reported_as_it_is(
    values: list[float], expected: float
) -> None:
    model = Losses(lambda images: {"a": mean_of(images), "b": torch.ones(1)})
    losses = validation_loss(model, batches_of(*([value] for value in values)), CPU)
    assert str(losses) == str({"loss": expected, "a": expected, "b": 1.0})


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([{"boxes": 1}], "a list, for image ids"),
        ({}, "no loss at all"),
        ({"a": 1.0}, "'a' as a fl"),
    ],
)
def test_what_are_no_losses_is_refused_with_the_images(returned: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validation_loss(Losses(lambda images: returned), batches_of([1, 2]), CPU)


def test_measuring_twice_gives_the_same_bits_and_leaves_everything_as_it_was() -> None:
    torch.manual_seed(1)
    model = Restless()
    model.heads.eval()
    batches = batches_of([1, 2], [3, 200], [5, 6])
    state = {name: value.clone() for name, value in model.state_dict().items()}
    tensors = dict(model.named_buffers())
    modes = [module.training for module in model.modules()]
    before = drawn_state()
    first = validation_loss(model, batches, CPU)
    assert drawn_state() == before
    assert model.state_dict().keys() == state.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    assert all(value is tensors[name] for name, value in model.named_buffers())
    assert model.absent is None
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    torch.rand(9)
    assert validation_loss(model, batches, CPU) == first


def test_the_loss_of_a_batch_does_not_depend_on_the_batches_before() -> None:
    torch.manual_seed(1)
    model = Restless()
    batches = batches_of([1, 2], [3, 200], [5, 6])
    alone = [validation_loss(model, [batch], CPU) for batch in batches]
    together = validation_loss(model, batches, CPU)
    for name, value in together.items():
        assert value == pytest.approx(sum(each[name] for each in alone) / 3, rel=1e-12)


def test_nothing_is_dropped_and_norms_use_their_running_statistics() -> None:
    model = Restless()
    norm = model.inner[0]
    assert isinstance(norm, nn.BatchNorm1d)
    model.heads[0].out_proj.weight.data.zero_()
    model.heads[0].out_proj.bias.data.fill_(0.25)
    losses = validation_loss(model, batches_of([4, 4], [8, 8]), CPU)
    assert losses["loss_layers"] == pytest.approx(6 / math.sqrt(1 + norm.eps) + 0.25)
    assert losses["loss_level"] == pytest.approx(2 * 6 / 255)


def test_detectors_and_their_parts_give_losses_while_layers_stay_as_in_evaluation() -> None:
    model = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    model.backbone.extra = nn.ModuleList([StochasticDepth(0.5, "row"), nn.BatchNorm2d(3)])
    with loss_mode(model):
        in_training = {name for name, module in model.named_modules() if module.training}
    assert {"", "rpn", "roi_heads"} <= in_training
    kinds = {type(model.get_submodule(name)) for name in in_training}
    assert not kinds & {nn.BatchNorm2d, nn.Dropout, StochasticDepth, nn.Conv2d}
    assert "transform" not in in_training  # it would draw a size
    assert all(module.training for module in model.modules())


def test_a_torchvision_detector_is_measured_with_and_without_objects() -> None:
    torch.manual_seed(0)
    model = adapt(fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64,
        box_batch_size_per_image=16, rpn_pre_nms_top_n_train=50, rpn_post_nms_top_n_train=20,
    ))  # fmt: skip
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    full = {"boxes": torch.tensor([[5.0, 5, 50, 60]]), "labels": torch.tensor([1])}
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    batches = [Batch([image, image], [full, empty], [1, 2]), Batch([image], [empty], [3])]
    names = ["loss", "loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"]
    first = validation_loss(model, batches, CPU)
    assert list(first) == names
    assert all(math.isfinite(value) for value in first.values())
    assert validation_loss(model, batches, CPU) == first


def test_nothing_is_read_from_the_device_before_the_end(host_reads: Any) -> None:
    model = Losses(lambda images: {"a": mean_of(images)})
    counts = []
    for length in (3, 12):
        host_reads.counts.clear()
        with host_reads:
            validation_loss(model, batches_of(*[[1.0, 2.0]] * length), CPU)
        counts.append(dict(host_reads.counts))
    assert counts[0] == counts[1] == {"tolist": 1}


def test_a_buffer_that_cannot_be_written_is_none_that_a_batch_has_changed() -> None:
    model = Losses(lambda images: {"a": mean_of(images)})
    model.register_buffer("means", torch.zeros(1).expand(3), persistent=False)
    assert validation_loss(model, batches_of([1, 3]), CPU)["a"] == 2


def test_a_loader_without_batches_is_an_error() -> None:
    with pytest.raises(ValueError, match="there are no images to measure losses on"):
        validation_loss(Losses(lambda images: {}), [], CPU)


def test_a_wish_to_stop_gives_it_up_and_the_modes_return() -> None:
    model = Losses(lambda images: {"a": mean_of(images)}).eval()
    with pytest.raises(StopRequestedError):
        validation_loss(model, batches_of([1], [2]), CPU, should_stop=lambda: True)
    assert not model.training


def test_where_it_hangs_is_told_with_the_images() -> None:
    seen = []

    def of(images: list[Tensor]) -> dict[str, Tensor]:
        seen.append(str(position_of(sys._getframe())))
        return {"a": mean_of(images)}

    validation_loss(Losses(of), batches_of([1, 2]), CPU)
    assert seen[0].startswith("forward, in the validation loss (")
    assert "image ids [0, 1]" in seen[0]

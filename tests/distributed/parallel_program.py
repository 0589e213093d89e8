"""Run on every rank: trains toy models together, and writes what came of it.

usage: parallel_program.py FOLDER, which gets `WORLD.pth`, by rank 0
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detengine.checkpoint.checkpointer import Checkpointer
from detengine.distributed import comm
from detengine.distributed.batch_norm import CPUSyncBatchNorm, share_buffers
from detengine.distributed.launch import start_distributed, stop_distributed
from detengine.distributed.parallel import distribute
from detengine.engine.trainer import do_train
from detengine.structures.batch import Batch

ITERATIONS = 6
CPU = torch.device("cpu")


class ToyDetector(nn.Module):
    """Losses that are means over images of one size, without randomness."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.linear = nn.Conv2d(3, 4, 3), norm, nn.Linear(4, 2)

    def forward(self, images: list[Tensor], targets: Any = None) -> dict[str, Tensor]:
        maps = self.norm(self.conv(torch.stack(images).float() / 255)).relu()
        first, second = self.linear(maps.mean((2, 3))).unbind(1)
        return {"loss_first": (first - 1).square().mean(), "loss_second": second.abs().mean()}


class Slices:
    """This rank's micro-batches: global batch i is of the images i * n to (i + 1) * n - 1."""

    def __init__(self, images: int, accumulate: int) -> None:
        self.images, self.accumulate = images, accumulate

    def __len__(self) -> int:
        return ITERATIONS * self.accumulate

    def __iter__(self) -> Iterator[Batch]:
        generator, world = torch.Generator().manual_seed(7), comm.get_world_size()
        size = self.images // self.accumulate // world
        for _ in range(len(self)):
            drawn = torch.randint(0, 256, (size * world, 3, 9, 8), generator=generator)
            own = drawn.to(torch.uint8)[comm.get_rank() * size :][:size]
            yield Batch(list(own), [{} for _ in own], list(range(size)))


class Losses(list[float]):
    """A sink for the loss of each iteration."""

    def write(self, iteration: int, metrics: dict[str, float]) -> None:
        self.append(metrics["train/loss"])


def train(
    folder: Path, images: int, accumulate: int = 1, norm: nn.Module | None = None, **how: Any
) -> dict[str, Any]:
    """The losses of a training by `do_train`, and what the model holds in the end."""
    model = ToyDetector(norm or nn.Identity())
    names = list(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    arguments, losses = {"iteration": 0}, Losses()
    parallel = distribute(model, CPU, foreign=False, accumulate=accumulate, **how)
    do_train(
        parallel, Slices(images, accumulate), optimizer, scheduler,
        Checkpointer(model, save_dir=folder), CPU, 100, arguments,
        accumulate=accumulate, log_period=1, sinks=[losses],
    )  # fmt: skip
    assert list(model.state_dict()) == names
    return {"losses": torch.tensor(losses), "state": model.state_dict()}


def statistics_apart() -> dict[str, Any]:
    """Running means of all ranks before and after rank 0's are given to all."""
    norm = nn.BatchNorm1d(1)
    norm(torch.tensor([[1.0], [2.0]]) * (comm.get_rank() + 1))
    before = comm.all_gather(float(norm.running_mean))
    share_buffers(norm)
    return {"before": before, "after": comm.all_gather(float(norm.running_mean))}


def normalized_together(sizes: list[int]) -> dict[str, Any]:
    """CPUSyncBatchNorm on so many images of each rank, and torch's own on all of them at once."""
    torch.manual_seed(0)
    values, factors = torch.randn(2, sum(sizes), 2, 3, 4)
    found = []
    for norm in (nn.BatchNorm2d(2), CPUSyncBatchNorm(2)):
        is_own = isinstance(norm, CPUSyncBatchNorm)
        input = (values + 1000).split(sizes)[comm.get_rank()] if is_own else values + 1000
        factor = factors.split(sizes)[comm.get_rank()] if is_own else factors
        input.requires_grad_()
        output = norm(input)
        (output * factor).sum().backward()
        parts = [output.detach(), input.grad, *(each.grad for each in norm.parameters())]
        if is_own:
            gathered = comm.all_gather(parts)
            parts = [torch.cat(each) for each in list(zip(*gathered, strict=True))[:2]]
            parts += [sum(each) for each in list(zip(*gathered, strict=True))[2:]]
        found.append([*parts, *norm.buffers()])
    return {"torch": found[0], "ours": found[1]}


class Forgetful(nn.Module):
    """A user's model: in step 3 a rank may leave a parameter, and its loss, out."""

    def __init__(self, forgets: bool) -> None:
        super().__init__()
        self.one, self.other = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
        self.forgets, self.steps, self.seen = forgets, 0, torch.zeros(())
        self.register_buffer("counted", torch.zeros(()))

    def forward(self, images: Any, targets: Any = None) -> dict[str, Tensor]:
        self.steps += 1
        self.counted.add_(comm.get_rank() + 1)
        losses = {"loss_one": self.one.square(), "loss_other": self.other.square()}
        if self.forgets and self.steps == 3:
            losses.pop("loss_other")
        return losses


def steps_of_a_foreign_model(forgets: bool, static_graph: bool) -> dict[str, Any]:
    """The gradients of each of four steps, or what was said instead of the third."""
    model = Forgetful(forgets)
    parallel = distribute(model, CPU, foreign=True, static_graph=static_graph)
    gradients, said = [], ""
    for _ in range(4):
        model.zero_grad()
        try:
            sum(parallel([]).values()).backward()
        except ValueError as error:
            said = str(error)
            break
        gradients.append([model.one.grad.item(), model.other.grad.item()])
    return {"gradients": gradients, "said": said, "counted": comm.all_gather(model.counted.item())}


def message_of_static_accumulation() -> str:
    try:
        distribute(ToyDetector(nn.Identity()), CPU, foreign=True, static_graph=True, accumulate=2)
    except ValueError as error:
        return str(error)
    return ""


def main(folder: Path) -> None:
    start_distributed("cpu")
    world, rank = comm.get_world_size(), comm.get_rank()
    sizes = {1: [2, 3, 4], 2: [2, 4], 3: [3]}[world]
    found: dict[str, Any] = {f"images={n}": train(folder, n) for n in sizes}
    if world < 3:
        found["images=4 accumulate=2"] = train(folder, 4, 2)
        found["synced"] = train(folder, 2, norm=nn.BatchNorm2d(4), sync_batchnorm=True)
        found["apart"] = train(folder, 2, norm=nn.BatchNorm2d(4))
    if world == 1:
        found["images=2 accumulate=2"] = train(folder, 2, 2)
    if world == 2:
        found["normalized"] = normalized_together([1, 3])
        found["statistics"] = statistics_apart()
        found["static"] = steps_of_a_foreign_model(forgets=True, static_graph=True)
        found["promised"] = steps_of_a_foreign_model(forgets=False, static_graph=True)
        found["dynamic"] = steps_of_a_foreign_model(forgets=rank == 1, static_graph=False)
        found["accumulated"] = message_of_static_accumulation()
    if world == 3:
        found["normalized"] = normalized_together([2, 0, 1])
    if rank == 0:
        torch.save(found, folder / f"{world}.pth")
    stop_distributed()


main(Path(sys.argv[1]))

"""What a rank is doing, read from real stacks."""

import importlib
import multiprocessing
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from detengine.data.workers import ObservedData
from detengine.distributed.standstill import Position
from detengine.distributed.watchdog import Watchdog
from detengine.engine.inference import compute_on_dataset
from detengine.engine.phase import PHASES, position_of
from detengine.engine.trainer import train_step, windows
from detengine.solver.precision import Precision
from detengine.structures.batch import Batch


class Seen:
    """Collects positions, each from the stack that it is asked on."""

    def __init__(self) -> None:
        self.at: dict[str, Position] = {}

    def here(self, name: str) -> None:
        self.at[name] = position_of(sys._getframe(1))


class Detector(nn.Module):
    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seen = seen

    def forward(self, images: Any, targets: Any = None) -> Any:
        self.seen.here("forward")
        if not self.training:
            return [{} for _ in images]
        loss = self.weight * 2
        loss.register_hook(lambda gradient: self.seen.here("backward"))
        return {"loss_box": loss}


@pytest.fixture(scope="module")
def seen() -> dict[str, Position]:
    seen = Seen()
    model = Detector(seen)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=True)
    optimizer.register_step_pre_hook(lambda *_: seen.here("optimizer"))
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)

    def loader() -> Iterator[Any]:
        seen.here("data")
        yield [torch.zeros(3, 4, 4)], [{}], [17]

    batches = Watchdog(None, None, position_of).batches(loader())
    for _, window in windows(batches, 1, torch.device("cpu")):  # type: ignore[arg-type]
        train_step(model, window, optimizer, scheduler, torch.device("cpu"), Precision())
    return seen.at


def test_a_step_is_told_by_its_part_and_its_image_ids(seen: dict[str, Position]) -> None:
    assert str(seen["forward"]) == "forward (in Detector.forward, image ids [17])"
    assert seen["backward"].phase == "backward"
    assert seen["optimizer"].phase == "the optimizer step"
    assert not any(position.waits for position in seen.values())


def test_waiting_for_a_batch_is_data_and_tells_where(seen: dict[str, Position]) -> None:
    assert str(seen["data"]) == "data (in seen.<locals>.loader)"


class Slow:
    """A sample that is never there."""

    name = "slow"

    def __len__(self) -> int:
        return 1

    def __getitem__(self, key: Any) -> Any:
        time.sleep(60)

    def name_of(self, key: Any) -> str:
        return "image 7"


def test_waiting_for_a_loaders_process_tells_which_one_and_what_it_reads() -> None:
    observed = ObservedData(Slow(), 1)
    loader = DataLoader(observed, num_workers=1, worker_init_fn=observed.start_worker)
    batches, positions = iter(loader), []

    def look() -> None:
        while not observed.still_reading():
            time.sleep(0.01)
        positions.append(position_of(sys._current_frames()[main]))
        for process in multiprocessing.active_children():
            process.kill()

    main = threading.get_ident()
    looking = threading.Thread(target=look)
    looking.start()
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        next(batches)
    looking.join()
    [position] = positions
    assert re.fullmatch(
        r"data \(data-loader worker 0 \(process \d+\) has been reading image 7 for 0 s\)",
        str(position),
    )


def test_a_forward_of_scoring_is_told_from_one_of_training() -> None:
    seen = Seen()
    batch = Batch([torch.zeros(3, 4, 4)], [{}], [4])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="image_size"):
        list(compute_on_dataset(Detector(seen), [batch], torch.device("cpu")))  # type: ignore[arg-type]
    assert str(seen.at["forward"]).startswith("forward (in Detector.forward, image ids [4])")


def test_a_thread_that_waits_for_another_rank_says_in_what_and_for_whom() -> None:
    """A collective's frames, as they stand while it waits."""
    scope: dict[str, Any] = {"__name__": "detengine.distributed.comm", "look": None}
    exec("def all_gather(look):\n    return look()", scope)
    module = {"__name__": "torch.distributed.distributed_c10d", "position_of": position_of}
    exec("import sys\ndef work():\n    return position_of(sys._getframe())", module)

    def after_step() -> Position:
        return scope["all_gather"](module["work"])

    assert after_step() == Position(
        "a collective", f"all_gather, in {after_step.__qualname__}", waits=True
    )


def test_a_thread_in_no_phase_is_told_by_its_function() -> None:
    def build_something() -> Position:
        return position_of(sys._getframe())

    assert build_something().phase.endswith("build_something")


def test_another_threads_stack_can_be_read() -> None:
    go, there = threading.Event(), threading.Event()

    def wait_here() -> None:
        there.set()
        go.wait()

    thread = threading.Thread(target=wait_here)
    thread.start()
    there.wait()
    position = position_of(sys._current_frames()[thread.ident or 0])
    go.set()
    thread.join()
    assert position.phase.endswith("wait_here")


@pytest.mark.parametrize("name", PHASES)
def test_every_phase_is_that_of_a_function_that_exists(name: str) -> None:
    module, _, function = name.partition(":")
    found = importlib.import_module(module)
    for part in function.split("."):
        found = getattr(found, part)
    assert callable(found)

"""Run by torchrun on every rank: saves a wrapped model, then what rank 0 cannot write, and resumes.

usage: torchrun ... ranks_program.py FOLDER
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detengine.checkpoint.checkpointer import Checkpointer
from detengine.distributed import comm
from detengine.distributed.launch import start_distributed, stop_distributed

folder = Path(sys.argv[1])


def outcome_of(work: Callable[[], object]) -> str:
    try:
        return repr(work())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def to_a_lost_folder(model: nn.Module, background: bool) -> Checkpointer:
    lost = folder / f"gone_{background}"
    checkpointer = Checkpointer(model, save_dir=lost, background=background)
    comm.synchronize()
    if comm.is_main_process():
        lost.rmdir()
    return checkpointer


def weights_after_resuming() -> list[float]:
    """Of a run whose newest checkpoint is damaged."""
    run = Checkpointer(DistributedDataParallel(nn.Linear(1, 1)), save_dir=folder / "run")
    for iteration in (1, 2):
        nn.init.constant_(run.model.module.weight, iteration)
        run.save(f"model_000000{iteration}", iteration=iteration)
    if comm.is_main_process():
        (folder / "run" / "model_0000002.pth").write_bytes(b"PK")
    comm.synchronize()
    return [run.resume()["iteration"], run.model.module.weight.item()]


start_distributed("cpu")
torch.manual_seed(0)
model = DistributedDataParallel(nn.Linear(2, 3))
Checkpointer(model, save_dir=folder).save("wrapped", rank=comm.get_rank())
outcomes: dict[str, object] = {}
checkpointer = to_a_lost_folder(model, background=False)
outcomes["save"] = outcome_of(lambda: checkpointer.save("lost"))
checkpointer = to_a_lost_folder(model, background=True)
outcomes["save in background"] = outcome_of(lambda: checkpointer.save("lost"))
outcomes["save again"] = outcome_of(lambda: checkpointer.save("lost_too"))
outcomes["problem"] = str(checkpointer.problem())
outcomes["wait"] = outcome_of(checkpointer.wait)
outcomes["wait again"] = outcome_of(checkpointer.wait)
outcomes["resume"] = weights_after_resuming()
empty = Checkpointer(model, save_dir=folder / "empty")
outcomes["resume nothing"] = outcome_of(empty.resume)
(folder / f"rank{comm.get_rank()}.json").write_text(json.dumps(outcomes))
stop_distributed()

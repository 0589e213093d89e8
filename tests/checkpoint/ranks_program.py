"""Run by torchrun on every rank: saves a wrapped model, then one that rank 0 cannot write.

usage: torchrun ... ranks_program.py FOLDER
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detengine.checkpoint.checkpointer import Checkpointer
from detengine.distributed import comm
from detengine.distributed.launch import start_distributed, stop_distributed

folder = Path(sys.argv[1])
start_distributed("cpu")
torch.manual_seed(0)
model = DistributedDataParallel(nn.Linear(2, 3))
Checkpointer(model, save_dir=folder).save("wrapped", rank=comm.get_rank())
checkpointer = Checkpointer(model, save_dir=folder / "gone")
if comm.is_main_process():
    (folder / "gone").rmdir()
try:
    checkpointer.save("lost")
    outcome = "saved"
except Exception as error:
    outcome = f"{type(error).__name__}: {error}"
(folder / f"rank{comm.get_rank()}.txt").write_text(outcome)
stop_distributed()

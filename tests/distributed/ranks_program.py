"""Run by torchrun on every rank: calls each function of comm and writes what came back.

usage: torchrun ... ranks_program.py FOLDER
"""

import json
import sys
from pathlib import Path

import torch

from detengine.distributed import comm
from detengine.distributed.launch import start_distributed, stop_distributed

device = start_distributed("cpu")
rank = comm.get_rank()
weight = torch.ones((), requires_grad=True)
losses = {"loss_b": weight * (rank + 1), "loss_a": torch.tensor(10.0 * rank)}
mean = comm.reduce_dict(losses)
total = comm.reduce_dict(dict(reversed(losses.items())), average=False)
comm.synchronize()
result = {
    "device": str(device),
    "world_size": comm.get_world_size(),
    "is_main_process": comm.is_main_process(),
    "gathered": comm.all_gather({"rank": rank, "rows": list(range(rank))}),
    "gathered_sizes": [len(data) for data in comm.all_gather(b"x" * (1 + 100_000 * rank))],
    "broadcast": comm.broadcast(f"from {rank}", source=1),
    "mean": {name: value.item() for name, value in mean.items()},
    "mean_carries_a_graph": mean["loss_b"].requires_grad,
    "total": {name: value.item() for name, value in total.items()},
    "empty": comm.reduce_dict({}),
    "second_start": str(start_distributed("auto")),
}
stop_distributed()
result["world_size_after_stop"] = comm.get_world_size()
(Path(sys.argv[1]) / f"rank{rank}.json").write_text(json.dumps(result))

"""Run by torchrun on every rank: feeds meters, writes log lines, and stores what came of it.

usage: torchrun ... ranks_program.py FOLDER
"""

import io
import json
import logging
import sys
from contextlib import redirect_stdout
from pathlib import Path

import torch
import torch.distributed as dist

from detengine.distributed.comm import get_rank
from detengine.monitor.logs import close_logging, setup_logging
from detengine.monitor.metric_logger import MetricLogger

dist.init_process_group("gloo")
rank = get_rank()
meters = MetricLogger(delimiter="  ")
lines = []
riders = meters.reduce_across_ranks(f"of rank {rank}")  # no meters yet
for step in range(25):  # more than a window; some are read before they are agreed on
    meters.update(loss=torch.tensor(float(step + 2 * rank)), time=step * (1.0 + rank))
    _ = meters.loss.median
meters.reduce_across_ranks()
lines.append(str(meters))
meters.reduce_across_ranks()
lines.append(str(meters))
for value in range(3 + rank):  # rank 1 has one update more, and a meter of its own
    meters.update(loss=100.0 * value)
if rank == 1:
    meters.update(loss_mask=7.0)
meters.reduce_across_ranks()
lines.append(str(meters))
with redirect_stdout(io.StringIO()) as console:
    setup_logging(sys.argv[1])
    logging.getLogger("detengine.trainer").info("from rank %d", rank)
    logging.getLogger("detengine.trainer").warning("beware")
    logging.getLogger("detengine.trainer").error("elsewhere", extra={"to_console": False})
    if rank == 1:
        logging.getLogger("detengine.trainer").error("broken")
    close_logging()
dist.barrier()
result = {
    "console": console.getvalue(),
    "log_files": {path.name: path.read_text() for path in Path(sys.argv[1]).glob("log*.txt")},
    "lines": lines,
    "riders": riders,
    "window": meters.state_dict()["loss"]["window"],
    "counts": {name: meter.count for name, meter in meters.meters.items()},
    "state": meters.state_dict(),
}
(Path(sys.argv[1]) / f"rank{rank}.json").write_text(json.dumps(result))
dist.destroy_process_group()

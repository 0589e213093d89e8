"""Run by torchrun on every rank: finds the weights at an address, and those at a wrong one.

usage: torchrun ... catalog_program.py FOLDER ADDRESS
"""

import sys
from pathlib import Path

from detengine.checkpoint.catalog import find_weights
from detengine.distributed import comm
from detengine.distributed.launch import start_distributed, stop_distributed

folder, address = Path(sys.argv[1]), sys.argv[2]
start_distributed("cpu")
lines = [find_weights(address).read_text()]
try:
    find_weights(f"{address}.missing")
except OSError as error:
    lines.append(f"{type(error).__name__}: {error}")
(folder / f"rank{comm.get_rank()}.txt").write_text("\n".join(lines))
stop_distributed()

"""Run by torchrun on every rank: finds the weights at an address, and those at a wrong one.

usage: torchrun ... catalog_program.py FOLDER CERTIFICATE ADDRESS [apart|sharing]
Then each rank is as on a machine of its own, with a cache of its own or one for both.
"""

import os
import sys
from pathlib import Path

from detengine.checkpoint.catalog import find_weights
from detengine.distributed import comm
from detengine.distributed.launch import start_distributed, stop_distributed

folder, address = Path(sys.argv[1]), sys.argv[3]
os.environ["SSL_CERT_FILE"] = sys.argv[2]
start_distributed("cpu")
if sys.argv[4:]:
    os.environ["LOCAL_RANK"] = "0"
of_rank = comm.get_rank() if sys.argv[4:] == ["apart"] else ""
os.environ["DETENGINE_CACHE"] = str(folder / f"cache{of_rank}")
lines = [find_weights(address).read_text()]
try:
    find_weights(address.replace("#", ".missing#"))
except OSError as error:
    lines.append(f"{type(error).__name__}: {error}")
(folder / f"rank{comm.get_rank()}.txt").write_text("\n".join(lines))
stop_distributed()

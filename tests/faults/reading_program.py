"""Run by the fork server: reads files of weights, and prints what became of each, a line of JSON.

usage: reading_program.py FOLDER LOG: all files of the folder, which is worked in. The last line has
the peak of the memory in MiB.
"""

import json
import os
import resource
import sys
from pathlib import Path

from detengine.checkpoint.readers import read_file

folder, log = Path(sys.argv[1]), Path(sys.argv[2])
os.chdir(folder)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with log.open("w", buffering=1) as lines:
    for path in sorted(folder.iterdir()):
        try:
            read_file(path)
        except (ValueError, OSError) as error:
            found = str(error)
        else:
            found = "read"
        lines.write(json.dumps([path.name, found]) + "\n")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    lines.write(json.dumps(["MiB", grown / 1024]) + "\n")

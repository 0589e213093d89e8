"""usage: python training_program.py THREADS FOLDERS ARGUMENTS, which is `detengine ARGUMENTS`.

It is done with so many threads, in one process for each of FOLDERS, a comma between them.
"""

import sys

import torch

from detengine.cli.main import main

if __name__ == "__main__":
    threads, folders, *arguments = sys.argv[1:]
    torch.set_num_threads(int(threads))
    for folder in folders.split(","):
        sys.argv = ["detengine", *arguments, "OUTPUT_DIR", folder]
        try:
            main()
        except SystemExit as ended:
            if ended.code:
                raise

"""Saves over and over, tells when each save begins and ends, and waits to be killed; many times.

usage: killed_program.py FOLDER KILLS here|beside

Each kill falls at another moment of a save. After each, the folder has to resume with a whole
checkpoint, no older than the last whose end was told. Prints, as JSON, how many kills left a file
half written, and the iterations that were resumed at. Torch is imported once: the processes that
save are forked.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

from detengine.checkpoint.checkpointer import Checkpointer

folder, kills, beside = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "beside"


def make_run() -> Checkpointer:
    return Checkpointer(nn.Linear(250, 1000), save_dir=folder, background=beside, keep_last=3)


def save(run: Checkpointer, iteration: int, tell: int) -> None:
    nn.init.constant_(run.model.weight, iteration)
    os.write(tell, b"begins\n")
    run.save(f"model_{iteration:07d}", iteration=iteration)
    run.wait()
    os.write(tell, f"{iteration}\n".encode())


def save_for_ever(iteration: int, tell: int) -> None:
    run = make_run()
    while True:
        iteration += 1
        save(run, iteration, tell)


def told_until_killed(iteration: int, seconds: float) -> int:
    """The last iteration that a process told to be saved, killed so long after its third began."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        save_for_ever(iteration, write)
    os.close(write)
    with os.fdopen(read) as told:
        lines = [told.readline() for _ in range(5)]  # begins, n, begins, n + 1, begins
        time.sleep(seconds)
        os.kill(process, signal.SIGKILL)
        lines += told.readlines()
    os.waitpid(process, 0)
    return max(int(line) for line in lines if line.strip().isdigit())


def seconds_of_a_save() -> float:
    run, null = make_run(), os.open(os.devnull, os.O_WRONLY)
    save(run, 1, null)
    start = time.perf_counter()
    for iteration in (2, 3, 4):
        save(run, iteration, null)
    return (time.perf_counter() - start) / 3


torch.set_num_threads(1)
duration, iteration, halves, resumed = seconds_of_a_save(), 4, 0, []
for kill in range(kills):
    told = told_until_killed(iteration, duration * kill / kills)
    halves += any(folder.glob("*.tmp"))
    run = make_run()
    iteration = run.resume()["iteration"]
    assert run.model.weight.unique().tolist() == [iteration]
    assert iteration >= told, f"{told} was told to be saved, but {iteration} was resumed"
    assert not list(folder.glob("*.tmp"))
    resumed.append(iteration)
print(json.dumps({"halves": halves, "resumed": resumed}))

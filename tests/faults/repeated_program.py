"""usage: python repeated_program.py WHAT TIMES FOLDER CONFIG, which prints a footprint after each.

WHAT: trainings, evaluations, loads or predictions, each done so often in this process with the
run in FOLDER, of CONFIG. A line of JSON each, behind whatever is logged.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from detengine.config.load import load_config, replace
from detengine.loading import load
from detengine.run import evaluate, train
from footprint import footprint


def action(what: str, folder: Path, config: Path) -> Callable[[int], object]:
    cfg = load_config(config)
    if what == "trainings":
        return lambda number: train(replace(cfg, {"OUTPUT_DIR": f"{folder}-{number}"}))
    if what == "evaluations":
        scored = replace(cfg, {"OUTPUT_DIR": f"{folder}-scored"})
        return lambda _: evaluate(scored, folder / "model_final.pth")
    if what == "loads":
        return lambda _: load(folder, device="cpu")
    predictor = load(folder, device="cpu")
    pictures = sorted((Path(cfg.DATASETS.ROOT) / "images").iterdir())
    return lambda number: predictor(pictures[number % len(pictures)])


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, times, folder, config = sys.argv[1:]
    act = action(what, Path(folder), Path(config))
    for number in range(int(times)):
        act(number)
        print(json.dumps(footprint([os.getpid()], number + 1)), flush=True)

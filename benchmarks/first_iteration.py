"""How long the command line takes: to its help, and to a training's first iteration, by phase.

    python benchmarks/first_iteration.py
    python benchmarks/first_iteration.py --config my.yaml

`detengine --help`, `python -c "import torch"`, `... torchvision"` and `detengine train` of one
iteration take turns, each in a process of its own; the training is of the demo's Mask R-CNN on the
demo's pictures, or of a file of your own. Its phases are those of its log ("Ready after ..."), and
what the first iteration's line says it waited for its data and took in all; "imports and command
line" is the rest of the process's time up to the end of that iteration. The last line is JSON.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from importlib.resources import files
from pathlib import Path

from in_turn import Timing, machine, print_json, print_table

ROUNDS = 5
DATA = Path(str(files("detengine") / "demo_data"))
LIGHT = {
    "detengine --help": ["-m", "detengine", "--help"],
    'python -c "import torch"': ["-c", "import torch"],
    'python -c "import torchvision"': ["-c", "import torchvision"],
}


def wall_seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def phases_of_a_training(config: list[str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        options = ["SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "[]", "SOLVER.LOG_PERIOD", "1"]
        command = ["-m", "detengine", "train", "--skip-test", "--output-dir", folder, *config]
        began = time.time()
        subprocess.run([sys.executable, *command, *options], check=True, capture_output=True)
        log = (Path(folder) / "log.txt").read_text()
        metrics = json.loads((Path(folder) / "metrics.jsonl").read_text().splitlines()[0])
        ended = (Path(folder) / "metrics.jsonl").stat().st_mtime
    [ready] = re.findall(r"Ready after [\d.]+ s: (.+)", log)
    phases = {name: float(took) for name, took in re.findall(r"([a-z ]+) ([\d.]+)", ready)}
    phases = {name.strip(): took for name, took in phases.items()}
    phases["first batch"] = metrics["train/data"]
    phases["first step"] = metrics["train/time"] - metrics["train/data"]
    total = ended - began
    return {"imports and command line": total - sum(phases.values()), **phases, "in all": total}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    config = ["-c", str(options.config)] if options.config else []
    config = config or ["-c", str(DATA / "demo.yaml"), "DATASETS.ROOT", str(DATA)]
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.rounds):
        for name, arguments in LIGHT.items():
            seconds[name].append(wall_seconds(arguments))
        for name, took in phases_of_a_training(config).items():
            seconds[name].append(took)
    rows = [[name, Timing.of(each).in_units(1)] for name, each in seconds.items()]
    print_table(["phase", "seconds"], rows)
    medians = {name: round(statistics.median(each), 3) for name, each in seconds.items()}
    print_json("first_iteration", machine("torchvision"), seconds=medians)


if __name__ == "__main__":
    main()

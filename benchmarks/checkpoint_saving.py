"""How long saving a checkpoint keeps the training waiting: in the background, and written at once.

    python benchmarks/checkpoint_saving.py

A Faster R-CNN R-50-FPN with SGD's momentum, 41 million parameters. Copying all tensors, `save` in
the background (which returns after such a copy), `save` written at once, and torch.save to the same
disk take turns in one process. The last line is JSON: medians in seconds.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from detengine.checkpoint.checkpointer import Checkpointer
from detengine.checkpoint.snapshot import snapshot
from detengine.config.load import load_config
from detengine.modeling.build import build_detection_model
from detengine.solver.optimizers import parameter_groups, sgd

ROUNDS = 5


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    keys = ["CONVENTIONS", "modern", "MODEL.ROI_BOX_HEAD.NUM_CLASSES", 81]
    model = build_detection_model(load_config(None, keys))
    groups = parameter_groups(
        model.named_parameters(), lr=0.01, weight_decay=0, bias_lr=0.01, bias_weight_decay=0
    )
    optimizer = sgd(groups, momentum=0.9)
    states = {"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()}
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        beside = Checkpointer(model, optimizer, save_dir=folder, background=True)
        at_once = Checkpointer(model, optimizer, save_dir=folder)
        works: dict[str, Callable[[], object]] = {
            "copy": lambda: snapshot(states, clone=True),
            "save_in_background": lambda: beside.save("model_0000001", iteration=1),
            "wait_for_it": beside.wait,
            "save_at_once": lambda: at_once.save("model_0000002", iteration=2),
            "torch_save": lambda: torch.save(states, Path(folder) / "torch.pth"),
        }
        for _ in range(ROUNDS):
            for name, work in works.items():
                times.setdefault(name, []).append(seconds(work))
        megabytes = (Path(folder) / "model_0000001.pth").stat().st_size / 2**20
    medians = {name: round(statistics.median(each), 3) for name, each in times.items()}
    for name, median in medians.items():
        print(f"{name:20} {median:7.3f} s")
    print(json.dumps({"rounds": ROUNDS, "file_mib": round(megabytes), "seconds": medians}))


if __name__ == "__main__":
    main()

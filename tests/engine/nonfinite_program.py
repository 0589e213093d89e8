"""Run on every rank: steps that are not finite on rank 1, and what they leave behind on each.

usage: nonfinite_program.py FOLDER CONFIG, which writes FOLDER/rank0.json and so on
"""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from detengine.checkpoint.checkpointer import Checkpointer
from detengine.checkpoint.files import load_file
from detengine.config.load import load_config, replace
from detengine.data.build import build_datasets, build_transforms
from detengine.data.collate import collate
from detengine.data.dataset import TrainingData
from detengine.distributed import comm
from detengine.distributed.launch import start_distributed, stop_distributed
from detengine.distributed.parallel import distribute
from detengine.engine.nonfinite import NonFiniteError, NonFinitePolicy
from detengine.engine.trainer import do_train, train_step
from detengine.modeling.build import build_detection_model
from detengine.solver.ema import ModelEMA
from detengine.solver.precision import Precision
from detengine.structures.batch import Batch
from engine.faulty_detector import FAULTS, FaultyDetector, FaultyLoader

CPU = torch.device("cpu")
RETINANET = {
    "MODEL.MASK_ON": False,
    "MODEL.BACKBONE.CONV_BODY": "R-50-FPN-RETINANET",
    "MODEL.RETINANET_ON": True,
    "MODEL.RETINANET.NUM_CLASSES": 4,
    "MODEL.RETINANET.NUM_CONVS": 1,
}
State = dict[str, Tensor]


def optimizer_of(kind: str, model: nn.Module) -> Optimizer:
    fused = not kind.startswith("unfused")
    if kind.endswith("sgd"):
        return SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, fused=fused)
    return AdamW(model.parameters(), lr=0.1, fused=fused)


class Training:
    """A training of the faulty detector on all ranks. states: after each iteration, from 0 on."""

    def __init__(self, folder: Path, kind: str = "sgd", *, averages: bool = False) -> None:
        self.folder = folder
        self.model = FaultyDetector()
        self.parallel = DistributedDataParallel(self.model, find_unused_parameters=True)
        self.optimizer = optimizer_of(kind, self.parallel)
        self.ema = ModelEMA(self.model, 0.5) if averages else None
        self.states: list[State] = []
        self.error = ""

    def run(self, length: int, targets: Mapping[int, Any], micro_batches: int = 1, **how: Any):
        """targets: rank 1's, by iteration."""
        own = targets if comm.get_rank() == 1 else {}
        scheduler = LambdaLR(self.optimizer, lambda _: 1.0)
        checkpointer = Checkpointer(self.parallel, self.optimizer, save_dir=self.folder)
        loader = FaultyLoader(length, comm.get_rank(), own, micro_batches)
        self.states.append(self.state())
        try:
            do_train(
                self.parallel, loader, self.optimizer, scheduler, checkpointer, CPU, 1000,
                {"iteration": 0}, seed=0, should_stop=self.note, ema=self.ema,
                accumulate=micro_batches, **how,
            )  # fmt: skip
        except NonFiniteError as error:
            self.error = str(error)
        return self

    def note(self) -> bool:
        self.states.append(self.state())
        return False

    def state(self) -> State:
        """Weights, running statistics and the optimizer's, as they are now."""
        state = {name: value.clone() for name, value in self.model.state_dict().items()}
        if self.ema is not None:
            averages = self.ema.state_dict()["weights"]
            state |= {f"average {name}": value.clone() for name, value in averages.items()}
        for number, of_parameter in self.optimizer.state_dict()["state"].items():
            state |= {f"{number} {name}": torch.tensor(v) if isinstance(v, int) else v.clone()
                      for name, v in of_parameter.items()}  # fmt: skip
        return state


def same(one: State, other: State) -> bool:
    """What only one of them has is an optimizer's, made in a step that was skipped: zeros."""
    shared = one.keys() & other.keys()
    alone = [*one.items(), *other.items()]
    return all(torch.equal(one[name], other[name]) for name in shared) and not any(
        value.any() for name, value in alone if name not in shared
    )


def same_on_all_ranks(state: State) -> bool:
    """Without the running statistics, which are each rank's own."""
    learnt = {name: value for name, value in state.items() if "norm." not in name}
    return all(same(learnt, other) for other in comm.all_gather(learnt))


def traces(folder: Path) -> list[str]:
    """Of each fault in the first or third step, and each optimizer: what the step has changed."""
    found = []
    for kind in ("sgd", "adamw", "unfused sgd", "unfused adamw"):
        for fault in FAULTS:
            for at in (1, 3):
                run = Training(folder / "stop", kind).run(5, {at: {"fault": fault}}, log_period=5)
                name = f"{kind}, {fault}, {at}"
                before = run.states[at - 1]
                if not all(same(state, before) for state in run.states[at - 1 :]):
                    found.append(name)
                if f"iteration {at}, " not in run.error:
                    found.append(f"{name}: {run.error!r}")
                if at == 3 and same(run.states[1], run.states[2]):
                    found.append(f"{name}: no step was made")
    return found


def recorded(folder: Path) -> dict[str, Any]:
    run = Training(folder / "record").run(4, {2: {"fault": FAULTS[0]}}, 2, log_period=4)
    weights = load_file(folder / "record" / "nonfinite_0000002.pth")["model"]
    own = {name: value for name, value in run.states[1].items() if "norm." not in name}
    kept = all(torch.equal(weights[name], own[name]) for name in weights if name in own)
    return {"error": run.error, "weights_are_those_before": kept}


def unwritable(folder: Path) -> str:
    run = Training(folder / "full")
    run.note = lambda: shutil.rmtree(folder / "full", ignore_errors=True) or False
    return run.run(2, {1: {"fault": FAULTS[0]}}, log_period=2).error


def skipped(folder: Path) -> dict[str, bool]:
    targets = {2: {"fault": FAULTS[0]}, 4: {"fault": FAULTS[1]}}
    run = Training(folder / "skip", averages=True)
    run.run(5, targets, log_period=5, on_nonfinite="skip")
    states = run.states
    halfway = (states[2]["average linear.weight"] + states[3]["linear.weight"]) / 2
    return {
        "left_out": same(states[1], states[2]) and same(states[3], states[4]),
        "went_on": not same(states[2], states[3]) and not same(states[4], states[5]),
        "same": same_on_all_ranks(states[-1]),
        "averaged": torch.allclose(states[3]["average linear.weight"], halfway),
        "statistics_averaged": all(v.isfinite().all() for v in states[-1].values()),
    }


def limited(folder: Path) -> dict[str, Any]:
    targets = {at: {"fault": FAULTS[0]} for at in (2, 4, 5, 6)}
    run = Training(folder / "limit")
    run.run(9, targets, log_period=5, on_nonfinite=NonFinitePolicy("skip", 3))
    return {
        "error": run.error,
        "as_before": all(same(state, run.states[3]) for state in run.states[3:]),
        "records": sorted(path.name for path in (folder / "limit").glob("nonfinite_*")),
    }


def other_losses(folder: Path) -> dict[str, Any]:
    """Rank 1 has a further loss in some iterations, in one of two micro-batches."""
    rows: list[Mapping[str, float]] = []

    class Sink:
        def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
            rows.append(metrics)

        def close(self) -> None: ...

    run = Training(folder / "extra")
    run.run(4, {1: {"extra": 1}, 4: {"extra": 1}}, 2, log_period=2, sinks=[Sink()])
    names = [sorted(name for name in row if "loss" in name) for row in rows]
    return {"same": same_on_all_ranks(run.states[-1]), "names": names, "error": run.error}


def without_targets(config: Path, changes: Mapping[str, Any]) -> bool:
    """Whether ranks train alike, where rank 1 has an image without objects, and where all have."""
    cfg = replace(load_config(config), changes)
    datasets = build_datasets(cfg, cfg.DATASETS.TRAIN)
    data = TrainingData(datasets, build_transforms(cfg, is_train=True), cfg.SEED)
    empty, filled = (collate([data[(0, index)]]) for index in (6, 0))
    assert not len(empty.targets[0]["boxes"])
    cfg = replace(cfg, {"MODEL.ROI_BOX_HEAD.NUM_CLASSES": 4})
    torch.manual_seed(0)
    model = build_detection_model(cfg).train()
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    parallel = distribute(model, CPU, foreign=False)
    scheduler = LambdaLR(optimizer, lambda _: 1.0)
    for batch in (filled if comm.get_rank() == 0 else empty, empty, filled):
        step = train_step(parallel, [batch], optimizer, scheduler, CPU, Precision())
        assert step.found_inf.item() == 0
        assert all(loss.isfinite() for loss in step.losses.values()), step.losses
    return same_on_all_ranks(model.state_dict())


def refused(folder: Path) -> str:
    """What a rank says of a model that returns no losses there."""
    parallel = DistributedDataParallel(FaultyDetector())
    parallel.module.forward = lambda images, targets: {}  # type: ignore[method-assign]
    optimizer = optimizer_of("sgd", parallel)
    batch = Batch([torch.zeros(3, 9, 8, dtype=torch.uint8)], [{}], [41, 42])
    try:
        train_step(parallel, [batch], optimizer, LambdaLR(optimizer, float), CPU, Precision())
    except ValueError as error:
        return str(error)
    return ""


def main(folder: Path, config: Path) -> None:
    start_distributed("cpu")
    torch.set_num_threads(1)
    seen = {
        "traces": traces(folder),
        "recorded": recorded(folder),
        "unwritable": unwritable(folder),
        "skipped": skipped(folder),
        "limited": limited(folder),
        "other_losses": other_losses(folder),
        "refused": refused(folder),
    }
    if comm.get_world_size() == 2:
        models = {"mask_rcnn": {}, "retinanet": RETINANET}
        seen["without_targets"] = {
            name: without_targets(config, changes) for name, changes in models.items()
        }
    (folder / f"rank{comm.get_rank()}.json").write_text(json.dumps(seen))
    stop_distributed()


main(Path(sys.argv[1]), Path(sys.argv[2]))

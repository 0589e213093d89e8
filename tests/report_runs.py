"""Folders of runs that were never trained: what a report is made of, in milliseconds."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from detengine.config.load import load_config, to_yaml
from detengine.config.load import replace as replace_values
from detengine.config.schema import Config
from detengine.data.coco import load_coco
from detengine.evaluation.predictions_file import PredictionWriter
from detengine.monitor.sinks import JsonlSink
from detengine.monitor.timer import Stages
from detengine.rescoring import rescore
from detengine.run_report.record import Recorder, begin_session, now
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.prediction import Prediction

EVIL = '"><img src=x onerror=alert(1)><script>alert(1)</script>'
EVIL_FILE = '"><img src=x onerror=alert(1)>.jpg'
EVIL_SET = "<svg onload=alert(1)>val"
SECTIONS = [
    *("losses", "scores", "curves", "errors", "confusion", "images", "calibration", "time"),
    *("environment", "configuration", "again", "warnings"),
]


def make_config(
    tiny_config: Path, folder: Path, changes: Mapping[str, Any] | None = None
) -> Config:
    """The tiny run's, with boxes alone and its output in the folder."""
    values = {"OUTPUT_DIR": str(folder), "MODEL.MASK_ON": False, "REPORT": True}
    return replace_values(load_config(tiny_config), values | dict(changes or {}))


def write_run(
    cfg: Config,
    *,
    iterations: Sequence[int] = (2, 4),
    every: int = 1,
    scored: bool = True,
    state: str | None = "finished",
    **session: Any,
) -> Path:
    """A run's folder: configuration, metrics, predictions with their scores, record.

    every: of the objects every n-th is found. scored: whether it was evaluated. state: of the
    record's session; None writes no record. session: its further fields.
    """
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(cfg))
    sink = JsonlSink(folder / "metrics.jsonl")
    for iteration in iterations:
        losses = {"train/loss": 3 / iteration, "train/loss_box_reg": 1 / iteration}
        times = {"train/time": 0.5, "train/data": 0.1, "train/lr": 0.001}
        sink.write(iteration, losses | times)
    if scored:
        for test_set in cfg.DATASETS.TEST:
            write_predictions(cfg, test_set, every)
        results = rescore(cfg, folder / "inference", output_folder=folder)
        for test_set, result in results.items():
            sink.write(iterations[-1], result.flat(f"val/{test_set}"))
    sink.close()
    if state is not None:
        begun = begin_session("train", torch.device("cpu"), now())
        last = {"iteration": iterations[-1] if iterations else 0, "state": state} | session
        recorder = Recorder(folder, replace(begun, **last), Stages(), anew=True)
        recorder.write(end=None if state == "running" else now())
    return folder


def write_predictions(cfg: Config, test_set: str, every: int) -> None:
    """Every n-th object of a COCO test set, found."""
    definition = cfg.DATASETS.DEFINE[test_set]
    path = Path(cfg.DATASETS.ROOT) / str(getattr(definition, "ANNOTATIONS"))  # noqa: B009
    truth = load_coco(path, None, test_set)
    folder = Path(cfg.OUTPUT_DIR) / "inference" / test_set
    with PredictionWriter(folder, truth.categories.names) as writer:
        for index, image_id in enumerate(truth.image_ids.tolist()):
            writer.add(image_id, _found(truth, index, every))


def _found(truth: GroundTruth, index: int, every: int) -> Prediction:
    rows = truth.annotations_of(index)
    labels = truth.categories.labels_of_ids(truth.categories.names)
    boxes = truth.boxes_xywh[rows][::every].float()
    boxes[:, 2:] += boxes[:, :2]
    found = torch.tensor([labels[each] for each in truth.category_ids[rows][::every].tolist()])
    height, width = truth.image_sizes[index].tolist()
    scores = torch.linspace(0.9, 0.6, len(boxes))
    return Prediction(boxes, scores, (height, width), found.long())


def write_evil_run(tiny_config: Path, folder: Path) -> Path:
    """A run whose every name is markup: classes, files, data set, losses, log, errors, commands."""
    data = folder / "data"
    data.mkdir(parents=True)
    content = json.loads(tiny_config.with_name("val.json").read_text())
    for category, name in zip(
        content["categories"], (EVIL, "<b>bar", "</title>&amp;"), strict=True
    ):
        category["name"] = name
    image = content["images"][0]
    shutil.copy(tiny_config.parent / "images" / image["file_name"], data / EVIL_FILE)
    image["file_name"] = EVIL_FILE
    for other in content["images"][1:]:
        shutil.copy(tiny_config.parent / "images" / other["file_name"], data / other["file_name"])
    (data / "val.json").write_text(json.dumps(content))
    definition = {"FORMAT": "coco", "IMAGES": str(data), "ANNOTATIONS": str(data / "val.json")}
    cfg = make_config(
        tiny_config,
        folder / "<i>run",
        {"DATASETS.DEFINE": {EVIL_SET: definition}, "DATASETS.TEST": (EVIL_SET,)},
    )
    run = write_run(cfg, every=2, state="failed", error=EVIL, command=f"detengine {EVIL}")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"iteration": 6, f"train/loss_{EVIL}": 0.5}) + "\n")
    line = "2026-01-01 00:00:00,000 detengine.data WARNING: "
    (run / "log.txt").write_text(f"{line}{EVIL}\nand <u>a second line\n")
    return run

"""What scoring keeps in memory, for each annotation, detection and image, and how long merging is.

    python benchmarks/evaluation_memory.py

Synthetic images of 100 detections and 8 objects: boxes of 80 classes, masks of one, and both of 80.
"The whole evaluation" is one process from its first image to the result: it scores, writes the
predictions as they come, and the COCO server's files of them in the end. Each case runs at two
sizes, each in a process of its own; a figure is the difference of their memory over the difference
of their detections, so that what Python and torch need themselves is not in it. One thread. Rank 0
merges the matches of another rank with as many images. The last line is JSON.
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from scaling import DETECTIONS, OBJECTS, make_image, make_truth
from torch import Tensor

from detengine.evaluation.coco_results import write_coco_results
from detengine.evaluation.evaluator import Evaluator
from detengine.evaluation.predictions_file import PredictionWriter
from detengine.structures.ground_truth import GroundTruth, PackedBytes
from detengine.structures.prediction import Prediction

DISTINCT = 40
"""Different images; the others are their copies."""
TASKS: dict[str, tuple[tuple[str, ...], int]] = {
    "boxes": (("bbox",), 80),
    "masks": (("segm",), 1),
    "both": (("bbox", "segm"), 80),
}
"""What is scored, and the classes of its data."""


def settle() -> int:
    """The memory now, once what was freed is given back to the system, so that growth shows."""
    ctypes.CDLL(None).malloc_trim(0)
    forget_peak()
    return memory("VmRSS")


def memory(field: str) -> int:
    """Bytes of this process. field: VmRSS, now; VmHWM, the most since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", status).group(1))  # type: ignore[union-attr]


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def make_case(images: int, task: str) -> tuple[GroundTruth, list[Prediction]]:
    """The truth of so many images, and the predictions of the first DISTINCT ones."""
    iou_types, classes = TASKS[task]
    made = [make_image(n, classes) for n in range(DISTINCT)]
    objects = [made[n % DISTINCT][0] for n in range(images)]
    predictions = [prediction.encoded() for _, prediction in made]
    truth = make_truth(objects, classes)
    if "segm" in iou_types:
        return truth, predictions
    return replace(truth, masks=None), [replace(each, rles=None) for each in predictions]


def fresh(prediction: Prediction) -> Prediction:
    """A copy in memory of its own, as a model would have made it."""
    return Prediction(
        boxes_xyxy=prediction.boxes_xyxy.clone(),
        scores=prediction.scores.clone(),
        labels=None if prediction.labels is None else prediction.labels.clone(),
        size=prediction.size,
        rles=prediction.rles
        and [
            {"size": list(rle["size"]), "counts": bytes(bytearray(rle["counts"]))}
            for rle in prediction.rles
        ],
    )


def scored(
    truth: GroundTruth, predictions: list[Prediction], task: str, images: range
) -> Evaluator:
    evaluator = Evaluator(truth, truth.categories.names, TASKS[task][0])
    for image in images:
        evaluator.update(image, predictions[image % DISTINCT])
    return evaluator


def case_rank(images: int, task: str) -> dict[str, float]:
    """A rank's matches while it scores all images."""
    truth, predictions = make_case(images, task)
    start = settle()
    evaluator = scored(truth, predictions, task, range(images))
    held = memory("VmRSS") - start
    return {"rank": held, "sent": sum(len(evaluator.matches(each)) for each in TASKS[task][0])}


def case_rank0(images: int, task: str) -> dict[str, float]:
    """Rank 0 from before its first image to the result, another rank having half of them."""
    truth, predictions = make_case(images, task)
    part = scored(truth, predictions, task, range(images // 2))
    matches, notes = [part.matches(each) for each in TASKS[task][0]], part.notes()
    del part
    start = settle()
    evaluator = scored(truth, predictions, task, range(images // 2, images))
    began = time.perf_counter()
    evaluator.merge_notes([notes])
    for iou_type in TASKS[task][0]:
        evaluator.merge_matches(iou_type, [matches.pop(0)])  # as they come, one at a time
    merged = time.perf_counter()
    evaluator.result()
    seconds = {"merge_s": merged - began, "result_s": time.perf_counter() - merged}
    return {"rank0": memory("VmHWM") - start, **seconds}


def case_whole(images: int, task: str) -> dict[str, float]:
    """One process from before its first image to the result and the result files; the files."""
    truth, predictions = make_case(images, task)
    iou_types = TASKS[task][0]
    start = settle()
    with tempfile.TemporaryDirectory() as folder:
        evaluator = Evaluator(truth, truth.categories.names, iou_types)
        with PredictionWriter(folder, truth.categories.names) as writer:
            for image in range(images):
                prediction = fresh(predictions[image % DISTINCT])
                evaluator.update(image, prediction)
                writer.add(image, prediction)
                writer.end_batch()
        evaluator.result()
        write_coco_results(Path(folder), truth.categories, truth.categories.names, iou_types)
        size = sum(path.stat().st_size for path in Path(folder).glob("*.pth"))
    return {"whole": memory("VmHWM") - start, "file": size}


def case_truth(images: int, task: str) -> dict[str, float]:
    """The annotations' columns, which each rank has once and shares with its loader's workers."""
    truth, _ = make_case(images, task)
    return {"truth": sum(bytes_of(getattr(truth, field.name)) for field in fields(truth))}


def bytes_of(column: Any) -> int:
    if isinstance(column, PackedBytes):
        return bytes_of(column.data) + bytes_of(column.offsets)
    return column.nbytes if isinstance(column, Tensor) else 0


def run(queue: Any, case: Callable[[int, str], dict[str, float]], images: int, task: str) -> None:
    torch.set_num_threads(1)
    queue.put(case(images, task))


def in_a_process(case: Callable[[int, str], Any], images: int, task: str) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=run, args=(queue, case, images, task))
    process.start()
    measured: dict[str, float] = queue.get()
    process.join()
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, nargs=2, default=[2000, 20000])
    few, many = parser.parse_args().images
    os.environ.update(OMP_NUM_THREADS="1", RAYON_NUM_THREADS="1")  # of the processes started now
    report: dict[str, dict[str, float]] = {}
    for task in TASKS:
        slopes: dict[str, float] = {}
        for case in (case_truth, case_rank, case_rank0, case_whole):
            small, large = (in_a_process(case, images, task) for images in (few, many))
            for name, value in large.items():
                slopes[name] = (value - small[name]) / (many - few)
        report[task] = slopes
        per_detection = {name: value / DETECTIONS for name, value in slopes.items()}
        print(f"{task}, {TASKS[task][1]} classes, {few} to {many} images")
        print(f"  annotations            {slopes['truth'] / OBJECTS:8.1f} bytes an annotation")
        for name, what in {
            "rank": "matches on their rank",
            "sent": "matches when sent",
            "rank0": "rank 0, at its most",
            "whole": "the whole evaluation",
            "file": "predictions' files",
        }.items():
            print(f"  {what:22s} {per_detection[name]:8.1f} bytes a detection")
        for name, what in {"merge_s": "merging", "result_s": "the result"}.items():
            print(f"  {what:22s} {1e9 * per_detection[name]:8.1f} ns a detection")
    print(json.dumps(report))


if __name__ == "__main__":
    main()

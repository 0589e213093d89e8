"""Scoring on several ranks: how much faster it is, what is sent, and what rank 0 holds.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --ranks 1 2 4 8 --images 800

From 28x28 mask probabilities to the AP (encoding, matching, merging on rank 0, accumulating), with
one thread for each rank. All numbers of ranks take turns in one run, on the same synthetic images
of 100 detections and 8 objects each; making them is not timed. Bytes are those that reach rank 0,
for each detection of the other ranks. The predecessor sent its predictions pickled, with float32
masks of 28x28; that is measured on the same detections. The last line is JSON.
"""

import argparse
import json
import os
import pickle
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from detengine.distributed.comm import get_rank, get_world_size, synchronize
from detengine.engine.inference import accumulate_predictions
from detengine.evaluation.evaluator import Evaluator
from detengine.structures.categories import Categories
from detengine.structures.ground_truth import GroundTruth, PackedBytes
from detengine.structures.mask_encoding import encode_mask_probs
from detengine.structures.prediction import Prediction

HEIGHT, WIDTH, DETECTIONS, OBJECTS = 480, 640, 100, 8
ONE_THREAD = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
TASKS = {"bbox, 80 classes": ("bbox", 80), "segm, 1 class": ("segm", 1)}
"""What is scored, beside bbox and segm of 80 classes together, which is timed."""


def make_boxes(count: int, generator: torch.Generator) -> Tensor:
    """float32[count, 4] whose median side is an eighth of the image's height."""
    image = torch.tensor([WIDTH, HEIGHT], dtype=torch.float32)
    sides = torch.minimum((4.1 + 0.9 * torch.randn(count, 2, generator=generator)).exp(), image)
    corners = torch.rand(count, 2, generator=generator) * (image - sides)
    return torch.cat([corners, corners + sides], dim=1)


def make_masks(count: int, generator: torch.Generator) -> Tensor:
    """float32[count, 28, 28]: blobs of noisy outline."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    noise = torch.randn(count, 28, 28, generator=generator)
    return (8 * (0.9 - x**2 - y**2) + 0.5 * noise).sigmoid()


def make_image(image: int, classes: int) -> tuple[dict[str, Any], Prediction]:
    """Objects, and detections of which the first ones are objects moved a little."""
    generator = torch.Generator().manual_seed(image)
    boxes = make_boxes(OBJECTS, generator)
    labels = torch.randint(1, classes + 1, (OBJECTS,), generator=generator)
    masks = make_masks(OBJECTS, generator)
    found = make_boxes(DETECTIONS, generator)
    found[:OBJECTS] = (boxes + torch.randn(OBJECTS, 4, generator=generator)).clamp(min=0)
    found[:OBJECTS, 2:] = torch.maximum(found[:OBJECTS, 2:], found[:OBJECTS, :2] + 1)
    found_labels = torch.randint(1, classes + 1, (DETECTIONS,), generator=generator)
    found_labels[:OBJECTS] = labels
    prediction = Prediction(
        boxes_xyxy=found,
        scores=torch.rand(DETECTIONS, generator=generator),
        labels=found_labels,
        mask_probs=make_masks(DETECTIONS, generator),
        size=(HEIGHT, WIDTH),
    )
    rles = encode_mask_probs(masks, boxes, (HEIGHT, WIDTH))
    return {"boxes": boxes, "labels": labels, "rles": rles}, prediction


def make_truth(objects: list[dict[str, Any]], classes: int) -> GroundTruth:
    count = len(objects) * OBJECTS
    boxes = torch.cat([each["boxes"] for each in objects]).double()
    boxes[:, 2:] -= boxes[:, :2]
    return GroundTruth(
        categories=Categories(
            tuple(f"class {k}" for k in range(classes)), tuple(range(1, classes + 1))
        ),
        image_ids=torch.arange(len(objects)),
        image_sizes=torch.tensor([[HEIGHT, WIDTH]]).repeat(len(objects), 1),
        file_names=PackedBytes.from_list([b"none.jpg"] * len(objects)),
        offsets=torch.arange(0, count + 1, OBJECTS),
        annotation_ids=torch.arange(count) + 1,
        category_ids=torch.cat([each["labels"] for each in objects]),
        boxes_xywh=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        is_crowd=torch.zeros(count, dtype=torch.bool),
        is_difficult=torch.zeros(count, dtype=torch.bool),
        masks=PackedBytes.from_list([rle["counts"] for each in objects for rle in each["rles"]]),
    )


def make_case(images: int, classes: int) -> tuple[GroundTruth, list[Prediction]]:
    objects, predictions = zip(*(make_image(n, classes) for n in range(images)), strict=True)
    return make_truth(list(objects), classes), list(predictions)


def memory_mib() -> float:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def score(truth: GroundTruth, predictions: list[Prediction], iou_types: tuple[str, ...]) -> Any:
    """This rank's share, scored and merged: seconds of both parts, bytes sent, memory, the AP."""
    before = memory_mib()
    evaluator = Evaluator(truth, truth.categories.names, iou_types)
    synchronize()
    start = time.perf_counter()
    for image in range(get_rank(), len(truth), get_world_size()):
        evaluator.update(image, predictions[image])
    synchronize()
    middle = time.perf_counter()
    result = accumulate_predictions(evaluator)
    synchronize()
    end = time.perf_counter()
    return {
        "update_seconds": middle - start,
        "merge_seconds": end - middle,
        "mib": memory_mib() - before,
        "AP": {iou_type: result.metrics[iou_type]["AP"] for iou_type in iou_types},
    }


def bytes_a_detection(iou_type: str, classes: int, images: int) -> float:
    """What one detection adds to what a rank sends, its share of the notes included."""
    truth, predictions = make_case(images, classes)
    evaluator = Evaluator(truth, truth.categories.names, (iou_type,))
    for image, prediction in enumerate(predictions):
        evaluator.update(image, prediction)
    sent = len(evaluator.notes()) + len(evaluator.matches(iou_type))
    return sent / (images * DETECTIONS)


def predecessors_bytes() -> float:
    """Of one detection in a pickled dict of image ids to boxes, scores, labels and masks."""
    _, prediction = make_image(0, 80)
    fields = {
        "bbox": prediction.boxes_xyxy,
        "scores": prediction.scores,
        "labels": prediction.labels,
        "mask": prediction.mask_probs[:, None].clone(),
    }
    return len(pickle.dumps({0: (fields, prediction.size)})) / DETECTIONS


def run_rank(rank: int, world_size: int, folder: str, images: int, rounds: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet{world_size}", rank=rank, world_size=world_size
    )
    truth, predictions = make_case(images, 80)
    turns = Path(folder)
    for number in range(rounds):
        while not (turns / f"turn_{world_size}_{number}").exists():
            time.sleep(0.01)
        measured = score(truth, predictions, ("bbox", "segm"))
        temporary = turns / f"tmp_{world_size}_{number}_{rank}"
        temporary.write_text(json.dumps(measured))
        temporary.rename(turns / f"done_{world_size}_{number}_{rank}")
    dist.destroy_process_group()


def measure(counts: list[int], images: int, rounds: int) -> Iterator[tuple[int, list[Any]]]:
    """(number of ranks, what each of them measured), round by round, in turn."""
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))  # for the processes that are started now
    with tempfile.TemporaryDirectory() as folder:
        groups = [
            torch.multiprocessing.spawn(
                run_rank, (count, folder, images, rounds), nprocs=count, join=False
            )
            for count in counts
        ]
        for number in range(rounds):
            for count in counts:
                (Path(folder) / f"turn_{count}_{number}").touch()
                done = [Path(folder) / f"done_{count}_{number}_{rank}" for rank in range(count)]
                while not all(path.exists() for path in done):
                    time.sleep(0.01)
                yield count, [json.loads(path.read_text()) for path in done]
        for group in groups:
            group.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    measured: dict[int, list[Any]] = {count: [] for count in options.ranks}
    for count, ranks in measure(options.ranks, options.images, options.rounds):
        measured[count].append(ranks)
    scores = {json.dumps(rank["AP"]) for rounds in measured.values() for r in rounds for rank in r}
    if len(scores) != 1:
        raise SystemExit(f"the numbers of ranks give different scores: {scores}")
    report: dict[str, Any] = {"images": options.images, "rounds": options.rounds, "ranks": {}}
    print(
        f"{'ranks':>5} {'update s':>9} {'merge s':>8} {'total s':>8} "
        f"{'rank 0 MiB':>11} {'others':>7}"
    )
    for count, rounds in measured.items():
        row = {
            key: statistics.median(each[0][key] for each in rounds)
            for key in ("update_seconds", "merge_seconds")
        }
        row["seconds"] = statistics.median(
            each[0]["update_seconds"] + each[0]["merge_seconds"] for each in rounds
        )
        row["rank0_mib"] = rounds[0][0]["mib"]
        row["others_mib"] = max((rank["mib"] for rank in rounds[0][1:]), default=0.0)
        report["ranks"][count] = {key: round(value, 3) for key, value in row.items()}
        values = " ".join(f"{value:8.2f}" for value in row.values())
        print(f"{count:5d}  {values}")
    if {1, 2} <= set(measured):
        ratio = report["ranks"][1]["seconds"] / report["ranks"][2]["seconds"]
        report["one_rank_over_two"] = round(ratio, 2)
        print(f"2 ranks are {ratio:.2f} times as fast as 1")
    theirs = predecessors_bytes()
    for name, (iou_type, classes) in TASKS.items():
        ours = bytes_a_detection(iou_type, classes, min(options.images, 200))
        report[f"bytes, {name}"] = round(ours, 1)
        print(f"{name}: {ours:.1f} bytes a detection, {theirs / ours:.0f} times fewer than pickled")
    report["bytes, pickled masks"] = round(theirs)
    print(json.dumps(report))


if __name__ == "__main__":
    main()

"""How much of the host's work disappears behind the device's: masks and matching, and copies.

    python benchmarks/overlap.py

Scoring: 28x28 masks of 100 detections an image go to RLE, to the evaluator and to disk, while a
device computes the next image. The device is a sleep of as long as an image takes a fast card, so
that the host is as free as it would be; with the work done at once and beside it, in turn. Copies:
on a CUDA device only, a batch of 16 images of 800x1333 while the device multiplies matrices, by
`engine.prefetch.batches_on` and by a plain copy on the computing stream. Where there is no such
device, that is said. The last line is JSON: medians in seconds.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from in_turn import in_turn, machine, print_json, print_table
from scaling import make_image, make_truth

from detengine.engine.prefetch import batches_on, work_beside
from detengine.evaluation.evaluator import Evaluator
from detengine.evaluation.predictions_file import PredictionWriter
from detengine.structures.batch import Batch

IMAGES, DEVICE_SECONDS = 60, 0.02
CPU, ACCELERATOR = torch.device("cpu"), torch.device("cuda")
ROUNDS = 5


def score_all(device: torch.device, seconds_an_image: float, made: list[Any]) -> None:
    """As `engine.inference` does it on such a device, whose work takes so long."""
    truth = make_truth([objects for objects, _ in made], 80)
    evaluator = Evaluator(truth, truth.categories.names, ("bbox", "segm"))
    with (
        tempfile.TemporaryDirectory() as folder,
        PredictionWriter(Path(folder), truth.categories.names) as writer,
        work_beside(device) as submit,
    ):

        def take(prediction: Any, image_id: int) -> None:
            evaluator.update(image_id, prediction)
            writer.add(image_id, prediction)

        for image_id, (_, prediction) in enumerate(made):
            time.sleep(seconds_an_image)
            submit(partial(take, image_id=image_id), prediction.encoded)


def copy_all(moved: Callable[[list[Batch]], Any]) -> None:
    size = torch.tensor([800, 1333])
    images = [torch.zeros(3, 800, 1333, dtype=torch.uint8).pin_memory() for _ in range(16)]
    batches = [Batch(images, [{"image_size": size}] * 16, list(range(16)))] * 20
    matrix = torch.rand(8192, 8192, device=ACCELERATOR)
    for batch in moved(batches):
        matrix = (matrix @ matrix).clamp(0, 1) + batch.images[0][0, 0, 0]
    torch.cuda.synchronize()


def main() -> None:
    torch.set_num_threads(1)
    made = [make_image(number, 80) for number in range(IMAGES)]
    scoring = in_turn(
        {
            "host alone": partial(score_all, CPU, 0.0, made),
            "device alone": lambda: time.sleep(IMAGES * DEVICE_SECONDS),
            "one after the other": partial(score_all, CPU, DEVICE_SECONDS, made),
            "side by side": partial(score_all, ACCELERATOR, DEVICE_SECONDS, made),
        },
        ROUNDS,
    )
    report = {"scoring": {name: round(each.median, 3) for name, each in scoring.items()}}
    rows = [[f"scoring: {name}", timing.in_units(1)] for name, timing in scoring.items()]
    if torch.cuda.is_available():
        copies = in_turn(
            {
                "on the computing stream": partial(
                    copy_all, lambda batches: (each.to(ACCELERATOR) for each in batches)
                ),
                "on a stream of its own": partial(
                    copy_all, lambda batches: batches_on(batches, ACCELERATOR)
                ),
            },
            ROUNDS,
        )
        report["copies"] = {name: round(each.median, 4) for name, each in copies.items()}
        rows += [[f"copies: {name}", timing.in_units(1)] for name, timing in copies.items()]
    print_table([f"{IMAGES} images, {1e3 * DEVICE_SECONDS:.0f} ms each on the device", "s"], rows)
    if not torch.cuda.is_available():
        print("copies: there is no CUDA device here")
    print_json("overlap", machine(), seconds=report)


if __name__ == "__main__":
    main()

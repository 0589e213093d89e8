"""From a network's output to the AP: ours, and the usual way.

    python benchmarks/scoring.py
    python benchmarks/scoring.py --what masks --sizes 800x1333 --sides coco --images 1000

Masks: 28x28 probabilities and boxes of 100 detections an image, to all twelve numbers of bbox and
segm. The usual way is torchvision's `paste_masks_in_image`, `> 0.5`, pycocotools' `mask.encode`
of each mask, then its `loadRes` and `COCOeval` of each iou type. Ours is what `engine.inference`
does with a model's output: `Prediction.from_output`, `encoded`, `Evaluator.update`, `result`.
The images come in ten parts, at each of which the two take turns: a round. `COCOeval` and our
`result` are of all images at once, are timed once in the end, and shared out among the images.
Nothing is extrapolated. All masks and all numbers must be identical to the last bit.

Boxes: 300,000 of 5,000 images in memory, to the twelve numbers of bbox; ours, pycocotools' and
faster-coco-eval's, in turn, the truth's index included; each begins with what it takes, a list of
results or `Prediction`s. All three must give the same numbers to the last bit.

One thread each. The sides of boxes are COCO's (see scoring_case.py), or all of them a 16th or a
fifth of the image's. All of it takes 20 minutes. The last line is JSON.
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import faster_coco_eval as faster
import numpy as np
import torch
from in_turn import Timing, in_turn, machine, print_json, print_table, seconds_of
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scaling import ONE_THREAD
from scoring_case import Objects, Size, add_masks, coco_of, make_image, truth_of
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detengine.evaluation.evaluator import Evaluator
from detengine.structures.mask_encoding import encode_mask_probs
from detengine.structures.prediction import Prediction

DETECTIONS, DETECTIONS_OF_BOXES = 100, 60
TARGETS = {"480x640": 15, "800x1333": 35}
"""Times faster, with sides of COCO's distribution; 40 for the boxes."""


def paste_and_encode(output: Objects, size: Size) -> list[Any]:
    """The usual way to RLEs: a full image for each mask."""
    pasted = paste_masks_in_image(output["mask_probs"][:, None], output["boxes"], size)[:, 0] > 0.5
    return [coco_mask.encode(np.asfortranarray(mask.numpy(), dtype=np.uint8)) for mask in pasted]


def results_of(image: int, output: Objects, rles: list[Any] | None) -> list[Any]:
    """As a file of results has them: with a box, or with a mask alone, whose area then counts."""
    boxes = output["boxes"].clone()
    boxes[:, 2:] -= boxes[:, :2]
    key, parts = ("bbox", boxes.tolist()) if rles is None else ("segmentation", rles)
    columns = zip(output["labels"].tolist(), output["scores"].tolist(), parts, strict=True)
    return [
        {"image_id": image, "category_id": label, "score": score, key: part}
        for label, score, part in columns
    ]


def cocoeval(
    content: Objects, results: list[Any], iou_type: str, api: type = COCO, kind: type = COCOeval
) -> list[float]:
    """The peer's twelve numbers. results: a copy is scored, since `loadRes` writes into them."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = api()
        truth.dataset = content
        truth.createIndex()
        evaluation = kind(truth, truth.loadRes([dict(each) for each in results]), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(each) for each in evaluation.stats]


class MaskRace:
    """Ours and the usual way over the same images, chunk by chunk."""

    def __init__(self, size: Size, sides: str, images: int) -> None:
        self.size = size
        pairs = [make_image(n, size, sides, detections=DETECTIONS) for n in range(images)]
        for image, (objects, output) in enumerate(pairs):
            add_masks(objects, output, image, size)
        self.truth = truth_of([objects for objects, _ in pairs], size)
        self.content = coco_of(self.truth)
        self.outputs = [output for _, output in pairs]
        self.start()

    def start(self) -> None:
        self.evaluator = Evaluator(self.truth, self.truth.categories.names, ("bbox", "segm"))
        self.boxes: list[Any] = []
        self.masks: list[Any] = []

    def ours(self, chunk: range) -> None:
        for image in chunk:
            prediction = Prediction.from_output(self.outputs[image], self.size, self.size)
            self.evaluator.update(image, prediction.encoded())

    def theirs(self, chunk: range) -> None:
        for image in chunk:
            output = self.outputs[image]
            self.boxes += results_of(image, output, None)
            self.masks += results_of(image, output, paste_and_encode(output, self.size))

    def our_end(self) -> list[list[float]]:
        metrics = self.evaluator.result().metrics
        return [list(metrics[iou_type].values()) for iou_type in ("bbox", "segm")]

    def their_end(self) -> list[list[float]]:
        return [
            cocoeval(self.content, self.boxes, "bbox"),
            cocoeval(self.content, self.masks, "segm"),
        ]

    def raise_if_masks_differ(self, chunk: range) -> None:
        rles = iter([each["segmentation"] for each in self.masks[-DETECTIONS * len(chunk) :]])
        for image in chunk:
            output = self.outputs[image]
            for own in encode_mask_probs(output["mask_probs"], output["boxes"], self.size):
                if own != next(rles):
                    raise SystemExit(f"a mask of image {image} is not the one pasted and encoded")

    def run(self, rounds: int) -> dict[str, Any]:
        """Seconds an image: of each round, and each image's share of the ends; the two APs."""
        few = range(min(5, len(self.outputs)))
        self.ours(few)
        self.theirs(few)
        self.start()
        ours, theirs = [], []
        for chunk in chunks(len(self.outputs), rounds):
            ours.append(seconds_of(partial(self.ours, chunk)) / len(chunk))
            theirs.append(seconds_of(partial(self.theirs, chunk)) / len(chunk))
            self.raise_if_masks_differ(chunk)
        (our_numbers, our_end), (their_numbers, their_end) = map(
            timed, (self.our_end, self.their_end)
        )
        if our_numbers != their_numbers:
            raise SystemExit(f"the numbers differ: {our_numbers} and {their_numbers}")
        return {
            "ours": [each + our_end / len(self.outputs) for each in ours],
            "theirs": [each + their_end / len(self.outputs) for each in theirs],
            "their_cocoeval": their_end / len(self.outputs),
            "AP": [numbers[0] for numbers in our_numbers],
        }


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and the seconds that it took."""
    given: list[Any] = []
    seconds = seconds_of(lambda: given.append(work()))
    return given[0], seconds


def chunks(images: int, rounds: int) -> Iterator[range]:
    """The images in as many parts as there are rounds."""
    for number in range(rounds):
        yield range(images * number // rounds, images * (number + 1) // rounds)


def race_masks(sizes: list[str], sides: list[str], images: dict[str, int], rounds: int) -> Any:
    rows, readings = [], {}
    for name in sizes:
        height, width = map(int, name.split("x"))
        for each in sides:
            found = MaskRace((height, width), each, images[each]).run(rounds)
            ours, theirs = Timing.of(found["ours"]), Timing.of(found["theirs"])
            ratio = theirs.median / ours.median
            target = f"{TARGETS[name]}" if each == "coco" and name in TARGETS else ""
            count = str(images[each])
            row = [name, each, count, theirs.in_units(), ours.in_units(), f"{ratio:.1f}", target]
            rows.append(row)
            readings[f"{name}, {each}"] = {
                "images": images[each],
                "ours_ms": round(1e3 * ours.median, 3),
                "theirs_ms": round(1e3 * theirs.median, 2),
                "of_that_cocoeval_ms": round(1e3 * found["their_cocoeval"], 2),
                "ratio": round(ratio, 1),
                "AP": found["AP"],
            }
    head = ["image", "sides", "images", "usual way, ms an image", "ours, ms an image"]
    print_table([*head, "times faster", "target"], rows)
    return readings


def race_boxes(images: int, rounds: int) -> Any:
    size = (480, 640)
    pairs = [make_image(n, size, "coco", detections=DETECTIONS_OF_BOXES) for n in range(images)]
    truth = truth_of([objects for objects, _ in pairs], size)
    content = coco_of(truth)
    results = [each for n, (_, output) in enumerate(pairs) for each in results_of(n, output, None)]
    predictions = [Prediction.from_output(output, size, size) for _, output in pairs]
    numbers: dict[str, list[float]] = {}

    def ours() -> list[float]:
        evaluator = Evaluator(truth, truth.categories.names, ("bbox",))
        for image, prediction in enumerate(predictions):
            evaluator.update(image, prediction)
        return list(evaluator.result().metrics["bbox"].values())

    works = {
        "pycocotools": partial(cocoeval, content, results, "bbox"),
        "faster-coco-eval": partial(
            cocoeval, content, results, "bbox", api=faster.COCO, kind=faster.COCOeval_faster
        ),
        "detengine": ours,
    }
    seconds = in_turn(
        {name: partial(keep, numbers, name, work) for name, work in works.items()},
        rounds,
        warm_up=False,
    )
    if any(found != numbers["pycocotools"] for found in numbers.values()):
        raise SystemExit(f"the numbers differ: {numbers}")
    own = seconds["detengine"].median
    rows = [
        [name, each.in_units(1), f"{each.median / own:.1f}", "40" if name == "pycocotools" else ""]
        for name, each in seconds.items()
    ]
    print_table(["", f"{len(results):,} boxes, seconds", "ours is faster by", "target"], rows)
    return {
        "boxes": len(results),
        "AP": numbers["detengine"][0],
        **{name: round(each.median, 3) for name, each in seconds.items()},
    }


def keep(numbers: dict[str, list[float]], name: str, work: Callable[[], list[float]]) -> None:
    numbers[name] = work()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--what", choices=["masks", "boxes"], nargs="+", default=["masks", "boxes"])
    parser.add_argument("--sizes", nargs="+", default=["480x640", "800x1333"])
    parser.add_argument("--sides", nargs="+", default=["coco", "1/16", "1/5"])
    parser.add_argument("--images", type=int, default=1000, help="with sides of coco")
    parser.add_argument("--images-of-others", type=int, default=100, help="with all other sides")
    parser.add_argument("--images-of-boxes", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=10, help="that the images come in")
    parser.add_argument("--rounds-of-boxes", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    readings = {}
    if "masks" in options.what:
        images = dict.fromkeys(options.sides, options.images_of_others) | {"coco": options.images}
        readings["masks"] = race_masks(options.sizes, options.sides, images, options.rounds)
    if "boxes" in options.what:
        readings["boxes"] = race_boxes(options.images_of_boxes, options.rounds_of_boxes)
    peers = ("torchvision", "pycocotools", "faster-coco-eval", "hotcoco", "numpy")
    print_json("scoring", machine(*peers), **readings)


if __name__ == "__main__":
    # The numbers of threads are read when the libraries are, so that they begin anew.
    one_thread = dict.fromkeys(ONE_THREAD, "1")
    if not one_thread.items() <= os.environ.items():
        again = [sys.executable, *sys.argv]
        raise SystemExit(subprocess.run(again, env={**os.environ, **one_thread}).returncode)
    main()

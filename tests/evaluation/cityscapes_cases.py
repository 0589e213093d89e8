"""Random Cityscapes-like data sets, and what the official script says of them.

As a program it writes that beside itself, with an interpreter that has cityscapesscripts:

    python tests/evaluation/cityscapes_cases.py

NumPy's RandomState is used because its numbers never change.
"""

import json
import os
import sys
import tempfile
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 90, 140
SEEDS = range(12)
REFERENCE = Path(__file__).with_name("cityscapes_reference.json")
CLASS_IDS = (24, 25, 26, 27, 28, 31, 32, 33)
_STUFF = (0, 3, 4, 7, 11, 23)


class Found(NamedTuple):
    """A detection. label_id: Cityscapes' id of its class."""

    label_id: int
    score: float
    mask: np.ndarray


class Street(NamedTuple):
    """An image: the pixels of *_instanceIds.png, and what was found there."""

    ids: np.ndarray
    found: list[Found]


def make_streets(seed, images=6):
    """Objects of some of the classes, large and small, behind groups, void and each other.

    Detections are moved copies of what is there, several of one object among them, of its class or
    of another one; also of groups, void and caravans, some without a pixel. Every other seed has
    equal scores. There are images without objects and images without detections.
    """
    rng = np.random.RandomState(seed)
    classes = rng.permutation(CLASS_IDS)[: rng.randint(3, 9)]
    streets = []
    for _ in range(images):
        ids = _make_ids(rng, classes, objects=rng.randint(0, 18) * (rng.rand() < 0.85))
        found = _make_found(rng, ids, classes, step=0.1 if seed % 2 else 1e-6)
        streets.append(Street(ids, found if rng.rand() < 0.9 else []))
    return streets


def write_truth(root, streets):
    """The folders leftImg8bit and gtFine of the split "val"; the paths of the instance ids."""
    paths = []
    for number, street in enumerate(streets):
        stem = f"town_{number:06d}_000019"
        picture = root / "leftImg8bit/val/town" / f"{stem}_leftImg8bit.png"
        ids = root / "gtFine/val/town" / f"{stem}_gtFine_instanceIds.png"
        for path, pixels in ((picture, np.zeros((HEIGHT, WIDTH, 3), np.uint8)), (ids, street.ids)):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, compress_level=1)
        paths.append(ids)
    return paths


def _shape(rng, least, most):
    """A rectangle or an ellipse, bool[HEIGHT, WIDTH]."""
    height, width = rng.randint(least, most, 2)
    top, left = rng.randint(0, HEIGHT - height), rng.randint(0, WIDTH - width)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    y, x = (2 * (y - top) + 1 - height) / height, (2 * (x - left) + 1 - width) / width
    if rng.rand() < 0.5:
        return (abs(y) < 1) & (abs(x) < 1)
    return y**2 + x**2 < 1


def _make_ids(rng, classes, objects):
    ids = np.full((HEIGHT, WIDTH), 7, np.uint16)
    for _ in range(4):
        ids[_shape(rng, 20, 80)] = _STUFF[rng.randint(len(_STUFF))]
    for number in range(objects):
        label_id = classes[rng.randint(len(classes))]
        kind = rng.rand()
        size = (4, 12) if kind < 0.2 else (10, 60)
        value = label_id * 1000 + number
        if 0.15 < kind < 0.35:
            value = label_id  # a group, sometimes a small one
        if kind > 0.95:
            value = 29000 + number if kind > 0.97 else 29
        ids[_shape(rng, *size)] = value
    ids[_shape(rng, 5, 40)] = 4
    return ids


def _make_found(rng, ids, classes, step):
    masks, labels = [], []
    for value in np.unique(ids):
        for _ in range(rng.randint(0, 3) if value > 23 else rng.randint(0, 2)):
            moves = rng.randint(-3, 4, 2) * rng.randint(0, 3)
            masks.append(np.roll(ids == value, moves, axis=(0, 1)) & (rng.rand() < 0.97))
            label_id = value // 1000 if value >= 1000 else value
            is_other = label_id < 24 or rng.rand() < 0.15
            labels.append(CLASS_IDS[rng.randint(8)] if is_other else label_id)
    for _ in range(rng.randint(0, 4)):
        masks.append(_shape(rng, 5, 40))
        labels.append(classes[rng.randint(len(classes))])
    scores = (np.floor(rng.rand(len(masks)) / step) * step + step).astype(np.float32)
    return [
        Found(int(label), float(score), mask)
        for label, score, mask in zip(labels, scores, masks, strict=True)
    ]


def _official(streets, root):
    """The official script's averages, and its AP of each class."""
    script = import_module("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling")

    truths, predictions = write_truth(root, streets), []
    for number, street in enumerate(streets):
        page = root / f"prediction_{number}.txt"
        lines = []
        for row, found in enumerate(street.found):
            name = f"{number}_{row}.png"
            Image.fromarray(found.mask.astype(np.uint8)).save(root / name)
            lines.append(f"{name} {found.label_id} {found.score!r}\n")
        page.write_text("".join(lines))
        predictions.append(str(page))
    script.args.gtInstancesFile = str(root / "instances.json")
    script.writeDict2JSON = lambda *_: None  # its by-products; it cannot write NumPy's integers
    script.args.predictionPath = str(root)
    script.args.quiet, script.args.JSONOutput = True, False
    result = script.evaluateImgLists(predictions, [str(path) for path in truths], script.args)
    aps = np.array(result["resultApMatrix"])[0]
    return {
        "AP": float(result["averages"]["allAp"]),
        "AP50": float(result["averages"]["allAp50%"]),
        "AP75": float(np.nanmean(aps[:, 5])),
        "classes": {
            name: None if np.isnan(each["ap"]) else float(each["ap"])
            for name, each in result["averages"]["classes"].items()
        },
    }


def main():
    if not hasattr(np, "in1d"):
        np.in1d = np.isin  # the script's name for it is gone in NumPy 2.4
    results = {}
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            results[str(seed)] = _official(make_streets(seed), Path(folder))
    header = {
        "command": "python tests/evaluation/cityscapes_cases.py",
        "with": f"cityscapesscripts {version('cityscapesscripts')}, NumPy {np.__version__}, "
        f"Python {sys.version.split()[0]}",
        "what": "evalInstanceLevelSemanticLabeling of make_streets(seed), by seed; null: no object",
    }
    REFERENCE.write_text(json.dumps({"header": header, "seeds": results}, indent=1) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()

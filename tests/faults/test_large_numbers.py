"""Many images, classes, objects in an image, and lines, and the memory that they take."""

import json
import os
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from detengine.config.load import load_config, replace
from detengine.monitor.sinks import JsonlSink, evaluations_in, last_iteration_with
from detengine.report.history import read_history
from detengine.run import train

pytestmark = pytest.mark.faults

PROGRAM = Path(__file__).parent / "large_program.py"
CLASSES = 500
SIZES = ((96, 64), (64, 96))
LINKS = 20_000
"""Of one file: ext4 has at most 65,000 names for one."""


def write_many(root: Path, tiny_config: Path, images: int, objects: int) -> Path:
    """A configuration of so many images, all links to a few, with three objects each.

    The first image has so many objects, and the last class is there once.
    """
    random_numbers = random.Random(0)
    (root / "images").mkdir(parents=True)
    for number in range(images):
        path = root / f"images/{number}.jpg"
        if number % LINKS < len(SIZES):
            Image.effect_noise(SIZES[number % 2], 60).convert("RGB").save(path)
        else:
            first = number // LINKS * LINKS + number % 2
            os.link(root / f"images/{first}.jpg", path)
    labels = [random_numbers.randrange(1, CLASSES) for _ in range(3 * images)] + [CLASSES]
    owners = [number for number in range(images) for _ in range(3)] + [1]
    labels += [1 + number % (CLASSES - 1) for number in range(objects)]
    owners += [0] * objects
    annotations = []
    for number, (owner, label) in enumerate(zip(owners, labels, strict=True), start=1):
        x, y = random_numbers.uniform(0, 50), random_numbers.uniform(0, 50)
        annotations.append(
            {
                "id": number,
                "image_id": owner + 1,
                "category_id": label,
                "bbox": [x, y, 12, 12],
                "segmentation": [[x, y, x + 12, y, x + 12, y + 12, x, y + 12]],
            }
        )
    entries = [
        {"id": n + 1, "file_name": f"{n}.jpg", "width": SIZES[n % 2][0], "height": SIZES[n % 2][1]}
        for n in range(images)
    ]
    categories = [{"id": number, "name": f"c{number}"} for number in range(1, CLASSES + 1)]
    few = [each for each in annotations if int(each["image_id"]) <= 4]
    for name, part, of_part in (("train", entries, annotations), ("val", entries[:4], few)):
        content = {"images": part, "annotations": of_part, "categories": categories}
        (root / f"{name}.json").write_text(json.dumps(content))
    define = {
        f"many_{name}": {"FORMAT": "coco", "IMAGES": "images", "ANNOTATIONS": f"{name}.json"}
        for name in ("train", "val")
    }
    sets = {"ROOT": str(root), "DEFINE": define, "TRAIN": ["many_train"], "TEST": ["many_val"]}
    path = root / "many.yaml"
    path.write_text(yaml.safe_dump({"_BASE_": str(tiny_config), "DATASETS": sets}))
    return path


@pytest.mark.timeout(900)
def test_many_images_classes_and_objects_are_read_in_little_memory_and_trained_on(
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_ranks: Callable[..., list[str]],
    times: Callable[[int, int], int],
    record_fault: Callable[..., None],
) -> None:
    monkeypatch.setenv("DETENGINE_CACHE", str(tmp_path / "cache"))
    images, objects, epochs = times(2000, 100_000), times(500, 5000), 2
    config = write_many(tmp_path / "many", tiny_config, images, objects)
    [printed] = run_ranks(1, PROGRAM, config, epochs, seconds=600)
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    assert found["images"] == images
    assert found["read"] >= epochs * images
    most_mb = 30 + 1000 * found["annotations"] / 2**20
    assert found["data_mb"] < most_mb, found
    assert found["order_mb"] < 10 + 100 * images / 2**20, found
    changes = {"OUTPUT_DIR": str(tmp_path / "run"), "SOLVER.MAX_ITER": times(2, 30)}
    result = train(replace(load_config(config), changes))
    assert result.finished
    scores = result.results["many_val"]
    assert set(scores.per_class["bbox"]) == {f"c{number}" for number in range(1, CLASSES + 1)}
    record_fault(
        "Load",
        "a large data set",
        made=f"{found['images']:,} images, {CLASSES} classes, one with a single object, an image "
        f"of {objects:,} objects",
        promised="at most 1 kB an object, and 100 bytes an image for its order; trained, scored",
        tried=f"{found['read']:,} images in the order of {epochs} epochs, "
        f"{found['annotations']:,} objects, {changes['SOLVER.MAX_ITER']} iterations, an evaluation",
        happened=f"{found['data_mb']:.0f} MB of annotations, {found['order_mb']:.1f} MB of order",
    )


@pytest.mark.timeout(900)
def test_a_million_lines_of_metrics_are_read_without_all_in_memory(
    tmp_path: Path, times: Callable[[int, int], int], record_fault: Callable[..., None]
) -> None:
    lines, path = times(10_000, 1_000_000), tmp_path / "metrics.jsonl"
    names = ("loss", "loss_classifier", "loss_box_reg", "lr", "time")
    with path.open("w") as file:
        for line in range(1, lines + 1):
            kind = "val/x/bbox" if line % 50 == 0 else "train"
            numbers = {f"{kind}/{name}": line / 7 for name in names}
            file.write(json.dumps({"iteration": line, **numbers}) + "\n")
        file.write('{"iteration": 3, "torn')
    stored = path.stat().st_size
    tracemalloc.start()
    JsonlSink(path, finished_iterations=lines - 10).close()
    last = last_iteration_with("val/", path, until=lines)
    evaluations = sum(1 for _ in evaluations_in(path))
    resuming = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    history = read_history(path)
    reading = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (last, evaluations) == (lines - 50, lines // 50 - 1)
    assert len(history.series["train/loss"].values) == lines - 10 - evaluations
    numbers = (lines - 10) * len(names)
    assert resuming < 2**20
    assert reading < 64 * numbers
    record_fault(
        "Load",
        "a long history",
        made=f"metrics.jsonl of {lines:,} lines, {stored / 2**20:.0f} MB, the last one torn",
        promised="resumed, with its later lines dropped, in less than 1 MB; for a report, in less "
        "than 64 bytes a number",
        tried="dropped, searched for the last evaluation, listed, and read for a report",
        happened=f"{resuming / 2**20:.2f} MB; {reading / numbers:.0f} bytes a number",
    )

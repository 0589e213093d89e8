import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).parents[2] / "../shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and recordings beside the repository."""
    if not (SHARED / "data").is_dir():
        pytest.skip("../shared is not there")
    return SHARED


@pytest.fixture
def make_coco(tmp_path: Path) -> Callable[..., Path]:
    """Writes images of the given (height, width) and a COCO file; returns the file's path."""

    def make(
        sizes: list[tuple[int, int]],
        annotations: list[dict[str, Any]],
        categories: tuple[str, ...] = ("cat", "dog"),
        name: str = "coco",
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        generator = np.random.default_rng(len(sizes))
        images = []
        for number, (height, width) in enumerate(sizes, start=1):
            pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            images.append(
                {"id": number, "file_name": f"{number}.png", "height": height, "width": width}
            )
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 10 * i, "name": n} for i, n in enumerate(categories, start=1)],
        }
        path = folder / "instances.json"
        path.write_text(json.dumps(content))
        return path

    return make


@pytest.fixture
def make_voc(tmp_path: Path) -> Callable[..., Path]:
    """Writes a VOC folder of 20 x 30 (height x width) images; returns its root.

    objects: for each image a list of (name, (xmin, ymin, xmax, ymax), difficult).
    """

    def make(
        objects: dict[str, list[tuple[str, tuple[float, float, float, float], int]]],
        suffix: str = ".jpg",
        size: str = "<size><width>30</width><height>20</height><depth>3</depth></size>",
    ) -> Path:
        root = tmp_path / "voc"
        for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
            (root / folder).mkdir(parents=True)
        (root / "ImageSets/Main/train.txt").write_text("\n".join(objects) + "\n")
        for stem, found in objects.items():
            Image.new("RGB", (30, 20), "grey").save(root / "JPEGImages" / f"{stem}{suffix}")
            entries = "".join(
                f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
                f"<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax>"
                f"<ymax>{box[3]}</ymax></bndbox></object>"
                for name, box, difficult in found
            )
            xml = f"<annotation><filename>old.jpg</filename>{size}{entries}</annotation>"
            (root / "Annotations" / f"{stem}.xml").write_text(xml)
        return root

    return make

"""The data that `loader.py` reads: photographs of COCO's size and kind, with polygons.

The photographs are those of a folder beside the repository, cut to 4:3, resized to 640 x 480 and
compressed again, so that decoding costs what it costs for real ones. Their objects are made up:
wobbly discs of 24 vertices, whose sides are spread as in `mask_encoding.py`.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageOps

SIZE_WH = (640, 480)
OBJECTS = 7
VERTICES = 24
CLASSES = 80
SOURCES = ("keypoints", "fruits_nuts/images")
"""Folders of JPEGs from cameras among the photographs."""


class Compression(NamedTuple):
    """How Pillow writes a JPEG. subsampling: of the colours, 0 is 4:4:4 and 2 is 4:2:0."""

    quality: int
    subsampling: int

    def __str__(self) -> str:
        return f"quality {self.quality}, 4:{'4:4' if self.subsampling == 0 else '2:0'}"


def write_data(folder: Path, photographs: Path, images: int, compression: Compression) -> Path:
    """Write the images and `instances.json` into the folder, and return the latter's path.

    Raises FileNotFoundError if a folder of photographs has none.
    """
    found = [_jpegs(photographs / source) for source in SOURCES]
    paths = [path for each in found for path in each]
    generator = torch.Generator().manual_seed(0)
    content: dict[str, list[Any]] = {"images": [], "annotations": []}
    content["categories"] = [{"id": n, "name": f"class {n}"} for n in range(1, CLASSES + 1)]
    for number in range(images):
        name = f"{number:04}.jpg"
        picture = _photograph(paths[number % len(paths)], number // len(paths))
        picture.save(
            folder / name, quality=compression.quality, subsampling=compression.subsampling
        )
        width, height = SIZE_WH
        content["images"].append(
            {"id": number, "file_name": name, "height": height, "width": width}
        )
        for _ in range(OBJECTS):
            annotation_id = len(content["annotations"]) + 1
            content["annotations"].append(_object(annotation_id, number, generator))
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def _jpegs(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.jpg"))
    if not found:
        raise FileNotFoundError(
            f"{folder} has no *.jpg; name the folder of the photographs by --photographs"
        )
    return found


def _photograph(path: Path, copy: int) -> Image.Image:
    """The middle of the photograph, and for further copies what is a bit off it."""
    with Image.open(path) as image:
        corner = 1 - 0.02 * copy
        width, height = (int(side * corner) for side in image.size)
        part = image.convert("RGB").crop((image.width - width, image.height - height, *image.size))
        return ImageOps.fit(part, SIZE_WH, Image.Resampling.LANCZOS)


def _object(annotation_id: int, image_id: int, generator: torch.Generator) -> dict[str, Any]:
    image = torch.tensor(SIZE_WH, dtype=torch.float32)
    spread = torch.randn(2, generator=generator)
    sides = torch.minimum((math.log(SIZE_WH[1] / 8) + 0.9 * spread).exp(), image - 1).clamp(min=4)
    corner = torch.rand(2, generator=generator) * (image - sides)
    angles = torch.arange(VERTICES) * (2 * math.pi / VERTICES)
    radii = 0.5 - 0.15 * torch.rand(VERTICES, generator=generator)
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    points = corner + sides * (0.5 + radii[:, None] * circle)
    low, high = points.amin(0), points.amax(0)
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1 + int(torch.randint(CLASSES, (), generator=generator)),
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "area": float((high - low).prod()),
        "iscrowd": 0,
        "segmentation": [points.flatten().tolist()],
    }

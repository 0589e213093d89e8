"""A COCO-sized annotation file for the benchmarks: the same bytes on every machine.

As in COCO's instances_train2017.json: 118,287 images of about 640 x 480, 860,001 annotations of 80
classes with ids up to 90, two in five small, one in ten of two polygons, one in a hundred a crowd
with run lengths, COCO's order of keys and two decimals. Its polygons have half as many points again
as COCO's, for the file to have 0.6 GB.
"""

from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

IMAGES = 118_287
ANNOTATIONS = 860_001
_CLASSES = [n for n in range(1, 91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
_SIZES = [(480, 640), (640, 480), (427, 640), (500, 333), (640, 427), (375, 500)]
_CHUNK = 20_000
_MEAN_POINTS = 31

Floats = NDArray[np.float64]


def write_coco_like(path: Path, images: int = IMAGES, annotations: int = ANNOTATIONS) -> None:
    """Write the file, unless it is there. Takes half a minute for COCO's numbers."""
    if path.is_file():
        return
    generator = np.random.default_rng(17)
    shapes = np.array(_SIZES)[generator.integers(0, len(_SIZES), images)]
    image_ids = generator.permutation(600_000)[:images] + 1
    aside = path.with_name(path.name + ".tmp")
    with aside.open("wb") as file:
        file.write(b'{"info": {"description": "like COCO 2017"},"licenses": [],"images": [')
        entries = [
            {
                "license": 3,
                "file_name": f"{image_id:012d}.jpg",
                "coco_url": f"http://images.cocodataset.org/train2017/{image_id:012d}.jpg",
                "height": height,
                "width": width,
                "date_captured": "2013-11-14 17:02:52",
                "flickr_url": "http://farm5.staticflickr.com/4113/5170000000_1f8b2c3d4e_z.jpg",
                "id": image_id,
            }
            for image_id, (height, width) in zip(image_ids.tolist(), shapes.tolist(), strict=True)
        ]
        file.write(orjson.dumps(entries)[1:-1])
        file.write(b'],"annotations": [')
        for start in range(0, annotations, _CHUNK):
            count = min(_CHUNK, annotations - start)
            file.write(b"," if start else b"")
            file.write(_annotations(generator, start, count, image_ids, shapes))
        classes = [{"supercategory": "thing", "id": n, "name": f"class {n}"} for n in _CLASSES]
        file.write(b'],"categories": ' + orjson.dumps(classes) + b"}")
    aside.replace(path)


def _annotations(
    generator: np.random.Generator,
    start: int,
    count: int,
    image_ids: NDArray[np.int64],
    shapes: NDArray[np.int64],
) -> bytes:
    """So many annotations as json, without the list's brackets."""
    image = generator.integers(0, len(shapes), count)
    category = np.array(_CLASSES)[generator.integers(0, len(_CLASSES), count)].tolist()
    entries = []
    for row, (height, width) in enumerate(shapes[image].tolist()):
        is_crowd = generator.random() < 0.01
        segmentation: object = _runs(generator, height, width) if is_crowd else None
        x, y, w, h = _box(generator, height, width)
        if not is_crowd:
            segmentation = _polygons(generator, x, y, w, h)
        entries.append(
            {
                "segmentation": segmentation,
                "area": w * h * 0.637,
                "iscrowd": int(is_crowd),
                "image_id": int(image_ids[image[row]]),
                "bbox": [x, y, w, h],
                "category_id": category[row],
                "id": 2 * (start + row) + 1,
            }
        )
    return orjson.dumps(entries)[1:-1]


def _box(generator: np.random.Generator, height: int, width: int) -> list[float]:
    """[x, y, width, height] inside the image; small, medium and large ones in COCO's shares."""
    scale, aspect = np.exp(generator.normal([4.0, 0.0], [1.15, 0.35]))
    edges = np.array([scale * aspect, scale / aspect]).clip(3, [width - 2, height - 2])
    corner = generator.random(2) * ([width, height] - edges)
    return np.round(np.concatenate([corner, edges]), 2).tolist()  # type: ignore[no-any-return]


def _polygons(
    generator: np.random.Generator, x: float, y: float, w: float, h: float
) -> list[list[float]]:
    """One, or two beside each other, all around the box's middle."""
    parts = 1 if generator.random() < 0.9 else 2
    return [
        _polygon(generator, x + part * w / parts, y, w / parts, h).tolist() for part in range(parts)
    ]


def _polygon(generator: np.random.Generator, x: float, y: float, w: float, h: float) -> Floats:
    """float64[2 * points], x1, y1, x2, ...: more points where the object is large."""
    points = int(generator.gamma(3, _MEAN_POINTS / 3 * min(1.5, 0.5 + (w * h) ** 0.5 / 120))) + 4
    angles = np.sort(generator.random(points)) * (2 * np.pi)
    lobes, phase = generator.integers(2, 6), generator.random() * (2 * np.pi)
    radii = 0.82 + 0.16 * np.cos(lobes * angles + phase) + 0.02 * generator.random(points)
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
    return np.round((corners + 1) / 2 * [w, h] + [x, y], 2).ravel()


def _runs(generator: np.random.Generator, height: int, width: int) -> dict[str, list[int]]:
    """Run lengths as COCO gives a crowd's, not compressed."""
    edges = np.sort(generator.choice(height * width, 400, replace=False))
    runs = np.diff(edges, prepend=0, append=height * width)
    return {"counts": runs.tolist(), "size": [height, width]}

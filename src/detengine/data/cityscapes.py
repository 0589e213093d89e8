"""Cityscapes' folders: leftImg8bit and gtFine, each <split>/<city>/<image>_*.png or .json.

Format: https://github.com/mcordts/cityscapesScripts. What is found, in which order, and with which
classes and boxes is the predecessor's (data/datasets/cityscapes.py): a box reaches from the first
to the last pixel of its object; groups such as "cargroup" are no objects.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from PIL import Image

from detengine.data.annotations import FoundImages, FoundObject, pack_annotations
from detengine.data.images import read_size
from detengine.data.segmentation import encode_segmentation, is_numbers
from detengine.structures.categories import Categories
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.rle import decode_counts, encode_counts

CLASS_OF_ID = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    29: "caravan",
    30: "trailer",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
"""The labels with instances, by Cityscapes' id (cityscapesscripts/helpers/labels.py). The benchmark
scores all but caravan and trailer; the predecessor trains on them, too."""

_CATEGORY_ID = {name: position for position, name in enumerate(CLASS_OF_ID.values(), start=1)}

_IMAGE = "_leftImg8bit.png"
_FIRST_INSTANCE = 1000
"""A pixel of an object is 1000 * label id + the object's number; below are groups and stuff."""


def load_cityscapes(
    images: Path,
    annotations: Path,
    split: str,
    name: str,
    *,
    mode: Literal["poly", "mask"],
    mini: int | None = None,
) -> GroundTruth:
    """Read one split. images: the folder leftImg8bit; annotations: gtFine; name: for messages.

    mode: objects from *_polygons.json or from *_instanceIds.png. mini: at most so many images,
    evenly spaced. Image ids are 1, 2, ... in the order of the paths, annotation ids likewise over
    all images, category ids 1 to 10. An image without objects is an image. File names start with
    the city's folder, below images/<split>.
    Raises FileNotFoundError for a folder without images or an image without annotation, and
    ValueError, naming the file, for an annotation that is damaged or has an impossible object.
    """
    folder = images / split
    paths = _find_images(folder, name)
    if mini is not None:
        paths = paths[:: len(paths) // mini + 1]
    pages = _find_annotations(annotations / split, paths, mode)
    read = _read_polygons if mode == "poly" else _read_masks
    objects: list[FoundObject] = []
    sizes: list[tuple[int, int]] = []
    for index, (path, page) in enumerate(zip(paths, pages, strict=True)):
        sizes.append(read_size(path))
        for found in read(page, sizes[-1]):
            objects.append(_packed(index, len(objects) + 1, found))
    return pack_annotations(
        annotations / split,
        Categories(tuple(_CATEGORY_ID), tuple(_CATEGORY_ID.values())),
        FoundImages(
            range(1, len(paths) + 1), [path.relative_to(folder).as_posix() for path in paths], sizes
        ),
        objects,
    )


class _Found(NamedTuple):
    """An object. corners: its first and last pixels (x1, y1, x2, y2). mask: b"" for none."""

    class_name: str
    corners: tuple[int, int, int, int]
    mask: bytes


def _packed(image: int, annotation_id: int, found: _Found) -> FoundObject:
    x1, y1, x2, y2 = found.corners
    width, height = x2 - x1 + 1, y2 - y1 + 1
    area = int(decode_counts(found.mask)[1::2].sum()) if found.mask else width * height
    return FoundObject(
        image=image,
        annotation_id=annotation_id,
        category_id=_CATEGORY_ID[found.class_name],
        box_xywh=(x1, y1, width, height),
        area=area,
        mask=found.mask,
    )


def _find_images(folder: Path, name: str) -> list[Path]:
    paths = sorted(folder.glob(f"*/*{_IMAGE}"), key=str)
    if not paths:
        reason = f"it has no <city>/*{_IMAGE}" if folder.is_dir() else "there is no such folder"
        raise FileNotFoundError(
            f"data set {name!r} has no images in {folder.absolute()}: {reason}. Correct its IMAGES "
            "or SPLIT, or DATASETS.ROOT."
        )
    return paths


def _find_annotations(folder: Path, images: Sequence[Path], mode: str) -> list[Path]:
    """Each image's annotation, which has its city, and its name before the last two words."""
    ending = "polygons.json" if mode == "poly" else "instanceIds.png"
    found = {
        (path.parent.name, path.name.rsplit("_", 2)[0]): path
        for path in folder.glob(f"*/*_{ending}")
    }
    keys = [(path.parent.name, path.name.removesuffix(_IMAGE)) for path in images]
    lacking = [key for key in keys if key not in found]
    if lacking:
        city, stem = lacking[0]
        raise FileNotFoundError(
            f"{len(lacking)} of {len(images)} images have no annotation, the first expected as "
            f"{folder.absolute() / city}/{stem}_gtFine_{ending}. Correct the data set's "
            "ANNOTATIONS or MODE, or complete the folder."
        )
    return [found[key] for key in keys]


def _read_polygons(path: Path, size: tuple[int, int]) -> Iterator[_Found]:
    try:
        entries = orjson.loads(path.read_bytes())["objects"]
        for entry in entries:
            if entry["label"] in _CATEGORY_ID:
                yield _read_polygon(entry, size)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no Cityscapes annotation: {type(error).__name__}: {error}; expected "
            "{'objects': [{'label': ..., 'polygon': [[x, y], ...]}, ...]}"
        ) from error


def _read_polygon(entry: Mapping[str, Any], size: tuple[int, int]) -> _Found:
    points = entry["polygon"]
    if not points or not all(is_numbers(point) and len(point) == 2 for point in points):
        raise ValueError(f"the polygon of a {entry['label']} is {str(points)[:80]}")
    xs, ys = zip(*points, strict=True)
    corners = (int(min(xs)), int(min(ys)), int(max(xs)), int(max(ys)))
    flat = [number for point in points for number in point]
    # two points have a box, as in the predecessor, but no mask
    mask = encode_segmentation([flat], size) if len(points) > 2 else b""
    return _Found(entry["label"], corners, mask)


def _read_masks(path: Path, size: tuple[int, int]) -> Iterator[_Found]:
    """The objects in the order of their ids: by class, then by number."""
    with Image.open(path) as image:
        pixels = np.asarray(image)
    if pixels.shape != size:
        raise ValueError(
            f"{path} is of {list(pixels.shape)} pixels (height, width), but its image of "
            f"{list(size)}. Were the images resized?"
        )
    by_column = pixels.T.ravel()
    positions = np.flatnonzero(by_column >= _FIRST_INSTANCE)
    order = np.argsort(by_column[positions], kind="stable")
    positions = positions[order]
    ids, starts = np.unique(by_column[positions], return_index=True)
    for instance_id, own in zip(ids.tolist(), np.split(positions, starts[1:]), strict=False):
        class_name = CLASS_OF_ID.get(instance_id // _FIRST_INSTANCE)
        if class_name is None:
            raise ValueError(
                f"{path} has the object {instance_id}, of the label "
                f"{instance_id // _FIRST_INSTANCE}; labels with objects are {sorted(CLASS_OF_ID)}"
            )
        yield _found_at(class_name, own.astype(np.int64), size)


def _found_at(class_name: str, positions: NDArray[np.int64], size: tuple[int, int]) -> _Found:
    """positions: of its pixels, ascending, where pixels are counted column by column."""
    height, width = size
    x, y = np.divmod(positions, height)
    is_first = np.diff(positions, prepend=-2) > 1
    firsts = positions[is_first]
    lasts = positions[np.append(is_first[1:], True)]
    borders = np.stack([firsts, lasts + 1], axis=1).ravel()
    runs = np.diff(borders, prepend=0)
    if borders[-1] < height * width:
        runs = np.append(runs, height * width - borders[-1])
    corners = (int(x.min()), int(y.min()), int(x.max()), int(y.max()))
    return _Found(class_name, corners, encode_counts(runs))

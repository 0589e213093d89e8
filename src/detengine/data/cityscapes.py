"""Cityscapes' folders: leftImg8bit and gtFine, each <split>/<city>/<image>_*.png or .json.

Format: https://github.com/mcordts/cityscapesScripts. What is found, in which order, and with which
classes and boxes is the predecessor's (data/datasets/cityscapes.py): a box reaches from the first
to the last pixel of its object; groups such as "cargroup" are no objects. Groups and void are the
ignored regions that the benchmark's evaluation knows.
"""

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from detengine.data.annotations import FoundImages, pack_annotations
from detengine.data.cityscapes_labels import (
    CATEGORY_ID,
    CLASS_OF_ID,
    CODE_OF_PIXEL,
    FIRST_INSTANCE,
    NOT_DRAWN,
    VOID_CODE,
    code_of_label,
)
from detengine.data.images import read_labels, read_size
from detengine.data.object_columns import FoundObject
from detengine.data.segmentation import encode_segmentation, is_numbers
from detengine.structures.categories import Categories
from detengine.structures.ground_truth import VOID, GroundTruth, IgnoredRegions
from detengine.structures.rle import decode_counts, encode_counts
from detengine.untrusted.excerpt import excerpt

_IMAGE = "_leftImg8bit.png"
_FARTHEST = 1 << 20
"""Pixels; from a hundred million on, Pillow paints other pixels than are meant."""

Regions = list[tuple[int, bytes]]
"""An image's ignored regions, each a category id, or VOID, and an RLE."""


def load_cityscapes(
    images: Path,
    annotations: Path,
    split: str,
    name: str,
    *,
    mode: Literal["poly", "mask"],
    mini: int | None = None,
    with_regions: bool = True,
) -> GroundTruth:
    """Read one split. images: the folder leftImg8bit; annotations: gtFine; name: for messages.

    mode: objects from *_polygons.json or from *_instanceIds.png. mini: at most so many images,
    evenly spaced. Image ids are 1, 2, ... in the order of the paths, annotation ids likewise over
    all images, category ids 1 to 10. An image without objects is an image. File names start with
    the city's folder, below images/<split>.
    with_regions: also find the ignored regions, which only scoring asks for: void and groups. They
    have the pixels that the benchmark gives them: those of
    *_instanceIds.png, or with "poly" of the polygons painted one over the other as that file is
    made, without reading it. The benchmark's own numbers need "mask": only there objects are what
    is seen of them, while polygons go on behind one another.
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
    regions: list[Regions] = []
    for index, (path, page) in enumerate(zip(paths, pages, strict=True)):
        sizes.append(read_size(path))
        found_objects, found_regions = read(page, sizes[-1], with_regions=with_regions)
        objects += (
            _packed(index, number, found)
            for number, found in enumerate(found_objects, start=len(objects) + 1)
        )
        regions.append(found_regions)
    truth = pack_annotations(
        annotations / split,
        Categories(tuple(CATEGORY_ID), tuple(CATEGORY_ID.values())),
        FoundImages(
            range(1, len(paths) + 1), [path.relative_to(folder).as_posix() for path in paths], sizes
        ),
        objects,
    )
    ignored = IgnoredRegions.from_lists(regions) if with_regions else None
    return replace(truth, ignored_regions=ignored)


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
        category_id=CATEGORY_ID[found.class_name],
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


def _read_polygons(
    path: Path, size: tuple[int, int], *, with_regions: bool
) -> tuple[list[_Found], Regions]:
    try:
        entries = orjson.loads(path.read_bytes().removeprefix(codecs.BOM_UTF8))["objects"]
        found = [_read_polygon(each, size) for each in entries if each["label"] in CATEGORY_ID]
        return found, _regions_of(_paint_codes(entries, size)) if with_regions else []
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{path} is no Cityscapes annotation: {type(error).__name__}: {error}; expected "
            "{'objects': [{'label': ..., 'polygon': [[x, y], ...]}, ...]}"
        ) from error


def _read_polygon(entry: Mapping[str, Any], size: tuple[int, int]) -> _Found:
    points = _points_of(entry)
    if not points:
        raise ValueError(f"the polygon of a {entry['label']} is []")
    xs, ys = zip(*points, strict=True)
    corners = (int(min(xs)), int(min(ys)), int(max(xs)), int(max(ys)))
    flat = [number for point in points for number in point]
    # two points have a box, as in the predecessor, but no mask
    mask = encode_segmentation([flat], size) if len(points) > 2 else b""
    return _Found(entry["label"], corners, mask)


def _points_of(entry: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Of a polygon. Raises ValueError for what is none, or so far away that painting goes wrong."""
    points = entry["polygon"]
    if not isinstance(points, list) or not all(
        is_numbers(point) and len(point) == 2 for point in points
    ):
        raise ValueError(f"the polygon of a {entry['label']!s:.80} is {excerpt(points)}")
    far = [point for point in points if max(map(abs, point)) > _FARTHEST]
    if far:
        raise ValueError(
            f"the polygon of a {entry['label']!s:.80} has a point at {excerpt(far[0])}, far "
            "outside of its image"
        )
    return points


def _paint_codes(entries: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Each pixel's code, column by column. What no polygon covers is unlabeled, hence void.

    Later polygons lie over earlier ones (cityscapesscripts/preparation/json2instanceImg.py).
    """
    height, width = size
    image = Image.new("L", (width, height), VOID_CODE)
    drawing = ImageDraw.Draw(image)
    for entry in entries:
        points = _points_of(entry)
        is_drawn = len(points) > 1 and not entry.get("deleted") and entry["label"] != NOT_DRAWN
        if is_drawn:
            drawing.polygon(list(chain.from_iterable(points)), fill=code_of_label(entry["label"]))
    return np.asarray(image).T.ravel()


def _read_masks(
    path: Path, size: tuple[int, int], *, with_regions: bool
) -> tuple[list[_Found], Regions]:
    pixels = read_labels(path)
    if pixels.dtype.kind not in "iu":
        raise ValueError(
            f"{path} has pixels of {pixels.dtype}, but Cityscapes' are whole numbers of 16 bits. "
            "Copy it again."
        )
    if pixels.shape != size:
        raise ValueError(
            f"{path} is of {list(pixels.shape)} pixels (height, width), but its image of "
            f"{list(size)}. Were the images resized?"
        )
    by_column = pixels.T.ravel()
    found = list(_split_objects(path, by_column, size))
    if not with_regions:
        return found, []
    return found, _regions_of(CODE_OF_PIXEL.take(by_column, mode="clip"))


def _split_objects(path: Path, by_column: NDArray[Any], size: tuple[int, int]) -> Iterator[_Found]:
    """The objects in the order of their ids: by class, then by number."""
    positions = np.flatnonzero(by_column >= FIRST_INSTANCE)
    order = np.argsort(by_column[positions], kind="stable")
    positions = positions[order]
    ids, starts = np.unique(by_column[positions], return_index=True)
    for instance_id, own in zip(ids.tolist(), np.split(positions, starts[1:]), strict=False):
        class_name = CLASS_OF_ID.get(instance_id // FIRST_INSTANCE)
        if class_name is None:
            raise ValueError(
                f"{path} has the object {instance_id}, of the label "
                f"{instance_id // FIRST_INSTANCE}; labels with objects are {sorted(CLASS_OF_ID)}"
            )
        yield _found_at(class_name, own.astype(np.int64), size)


def _regions_of(codes: NDArray[np.uint8]) -> Regions:
    """The ignored regions, groups before void. codes: of all pixels, column by column."""
    starts = np.append(0, np.flatnonzero(codes[1:] != codes[:-1]) + 1)
    ends = np.append(starts[1:], len(codes))
    code_of_run = codes[starts]
    regions = []
    for code in np.unique(code_of_run[code_of_run > 0]).tolist():
        own = code_of_run == code
        category_id = VOID if code == VOID_CODE else code
        regions.append((category_id, _encode_between(starts[own], ends[own], len(codes))))
    return regions


def _encode_between(starts: NDArray[np.int64], ends: NDArray[np.int64], pixels: int) -> bytes:
    """The RLE of the runs that begin at `starts` and end before `ends`, apart and ascending."""
    borders = np.stack([starts, ends], axis=1).ravel()
    runs = np.diff(borders, prepend=0)
    if borders[-1] < pixels:
        runs = np.append(runs, pixels - borders[-1])
    return encode_counts(runs)


def _found_at(class_name: str, positions: NDArray[np.int64], size: tuple[int, int]) -> _Found:
    """positions: of its pixels, ascending, where pixels are counted column by column."""
    height, width = size
    x, y = np.divmod(positions, height)
    is_first = np.diff(positions, prepend=-2) > 1
    firsts = positions[is_first]
    lasts = positions[np.append(is_first[1:], True)]
    corners = (int(x.min()), int(y.min()), int(x.max()), int(y.max()))
    return _Found(class_name, corners, _encode_between(firsts, lasts + 1, height * width))

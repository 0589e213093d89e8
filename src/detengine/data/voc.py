"""PASCAL VOC's folders: ImageSets/Main/<split>.txt, Annotations/<id>.xml, JPEGImages/<id>.*.

Format: the VOC2012 development kit. Pixels there are counted from 1 and a box includes its last
ones, so that xmin = 1, xmax = 10 covers the first ten columns: in continuous coordinates 0 to 10.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from detengine.data.annotations import FoundImages, pack_annotations, raise_if_twice
from detengine.data.images import read_size
from detengine.data.object_columns import FoundObject
from detengine.structures.categories import Categories
from detengine.structures.ground_truth import GroundTruth

IMAGE_FOLDER = "JPEGImages"


def load_voc(root: Path, split: str, classes: Sequence[str] | None, name: str) -> GroundTruth:
    """Read one split of a VOC folder. name: for messages.

    Image ids are 1, 2, ... in the order of the split's file; annotation ids likewise, over all its
    images; category ids 1, 2, ... in the order of the classes. classes: all that may occur, or None
    for the sorted names that do. An image is JPEGImages/<id> with any suffix, or its <filename>.
    Raises FileNotFoundError for a missing file, ValueError for a class that is not among `classes`,
    for xml that is damaged or has a DTD, and for an impossible box; each names the file.
    """
    stems = _read_split(root, split, name)
    pages = [_parse(root / "Annotations" / f"{stem}.xml") for stem in stems]
    file_names = _find_images(root, stems, pages)
    sizes = [
        page.size or read_size(root / IMAGE_FOLDER / file_name)
        for page, file_name in zip(pages, file_names, strict=True)
    ]
    names = tuple(classes) if classes is not None else _names_found(pages)
    categories = Categories(names, tuple(range(1, len(names) + 1)))
    category_ids = dict(zip(categories.names, categories.ids, strict=True))
    found = [(image, page, each) for image, page in enumerate(pages) for each in page.objects]
    objects = [
        FoundObject(
            image=image,
            annotation_id=annotation_id,
            category_id=_category_id(page.path, each.name, category_ids),
            box_xywh=each.box_xywh,
            area=each.box_xywh[2] * each.box_xywh[3],
            is_difficult=each.is_difficult,
        )
        for annotation_id, (image, page, each) in enumerate(found, start=1)
    ]
    images = FoundImages(range(1, len(stems) + 1), file_names, sizes)
    return pack_annotations(_split_file(root, split), categories, images, objects)


@dataclass(frozen=True)
class _Object:
    name: str
    box_xywh: tuple[float, float, float, float]
    is_difficult: bool


@dataclass(frozen=True)
class _Page:
    """One xml file. size: (height, width), None where it does not say."""

    path: Path
    file_name: str | None
    size: tuple[int, int] | None
    objects: list[_Object]


def _split_file(root: Path, split: str) -> Path:
    return root / "ImageSets" / "Main" / f"{split}.txt"


def _read_split(root: Path, split: str, name: str) -> list[str]:
    path = _split_file(root, split)
    if not path.is_file():
        there = sorted(each.stem for each in path.parent.glob("*.txt"))
        raise FileNotFoundError(
            f"data set {name!r} has no split {split!r}: {path} does not exist. "
            f"Splits found there: {', '.join(there) or 'none'}. "
            "Correct its ROOT or SPLIT, or DATASETS.ROOT."
        )
    stems = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    raise_if_twice(path, "image", stems)
    return stems


def _names_found(pages: Iterable[_Page]) -> tuple[str, ...]:
    return tuple(sorted({each.name for page in pages for each in page.objects}))


def _category_id(path: Path, name: str, category_ids: Mapping[str, int]) -> int:
    if name not in category_ids:
        raise ValueError(
            f"{path} has the unknown class {name!r}; the data set's CLASSES are "
            f"{', '.join(category_ids)}. Add it there, or correct the file. "
            "(DATASETS.CLASSES chooses a subset to train and score.)"
        )
    return category_ids[name]


def _find_images(root: Path, stems: Sequence[str], pages: Sequence[_Page]) -> list[str]:
    """Each image's name in JPEGImages. Its id goes before its <filename>, which is often stale."""
    folder = root / IMAGE_FOLDER
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist: a VOC data set keeps its images there")
    names_of_stem: dict[str, list[str]] = defaultdict(list)
    for file in folder.iterdir():
        names_of_stem[file.stem].append(file.name)
    found = []
    for stem, page in zip(stems, pages, strict=True):
        candidates = names_of_stem.get(stem, [])
        named = page.file_name
        if len(candidates) == 1:
            found.append(candidates[0])
        elif named and (named in candidates or (not candidates and (folder / named).is_file())):
            found.append(named)
        else:
            raise FileNotFoundError(
                f"the image of {page.path} must be {folder / stem} with one suffix, or its "
                f"<filename> ({named}), but {', '.join(sorted(candidates)) or 'neither'} is there"
            )
    return found


class _RefuseDoctype(ElementTree.TreeBuilder):
    """VOC files have no DTD; one could name files to be read or entities that grow without end."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a document type definition, which is refused; take it out")


def _parse(path: Path) -> _Page:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist, but its image is listed in the split. An image without "
            "objects needs a file, too: <annotation></annotation>."
        )
    try:
        parser = ElementTree.XMLParser(target=_RefuseDoctype())
        page = ElementTree.fromstring(path.read_bytes(), parser)
        objects = [_read_object(each) for each in page.iter("object")]
        size = _read_size(page)
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path} is no VOC annotation: {error}") from error
    return _Page(path, page.findtext("filename"), size, objects)


def _read_size(page: ElementTree.Element) -> tuple[int, int] | None:
    if page.find("size") is None:
        return None
    height, width = (int(_number(page, f"size/{edge}")) for edge in ("height", "width"))
    return (height, width) if height > 0 and width > 0 else None


def _read_object(entry: ElementTree.Element) -> _Object:
    name = _text(entry, "name")
    x1, y1, x2, y2 = (_number(entry, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
    difficult = entry.findtext("difficult")
    box = (x1 - 1, y1 - 1, _extent(x1, x2), _extent(y1, y2))
    return _Object(name, box, difficult is not None and difficult.strip() == "1")


def _extent(first: float, last: float) -> float:
    """The pixels from first to last; none where they are equal.

    Of a box as the format means it, that would be one pixel, but it is what annotation tools leave
    behind after a stray click; the predecessor drops it, too.
    """
    return last - first + 1 if last > first else last - first


def _text(entry: ElementTree.Element, tag: str) -> str:
    text = entry.findtext(tag)
    if text is None or not text.strip():
        raise ValueError(f"<{entry.tag}> has no <{tag}>")
    return text.strip()


def _number(entry: ElementTree.Element, tag: str) -> float:
    text = _text(entry, tag)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"<{tag}> of <{entry.tag}> must be a number, but is {text!r}")
    return number

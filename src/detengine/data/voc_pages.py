"""PASCAL VOC's xml files, one to a page. Without torch, so that a look at a folder costs little."""

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from detengine.data.decimals import read_number
from detengine.untrusted.excerpt import excerpt

_FLAGS = {"": False, "0": False, "1": True, "false": False, "true": True}
"""What <difficult> may be, the words of some programs included."""
_MOST_PIXELS = 1 << 32
"""Of an image, as of COCO's."""


@dataclass(frozen=True)
class VocObject:
    """An object of a page. box_xywh: in pixels, continuous, counted from 0."""

    name: str
    box_xywh: tuple[float, float, float, float]
    is_difficult: bool


@dataclass(frozen=True)
class VocPage:
    """One xml file. size: (height, width), None where it does not say."""

    path: Path
    file_name: str | None
    size: tuple[int, int] | None
    objects: list[VocObject]


class _RefuseDoctype(ElementTree.TreeBuilder):
    """VOC files have no DTD; one could name files to be read or entities that grow without end."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a document type definition, which is refused; take it out")


def read_page(path: Path) -> VocPage:
    """Raises FileNotFoundError, and ValueError for a file that is damaged or has a DTD."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist, but its image is listed in the split. An image without "
            "objects needs a file, too: <annotation></annotation>."
        )
    try:
        parser = ElementTree.XMLParser(target=_RefuseDoctype())
        page = ElementTree.fromstring(path.read_bytes(), parser)
        if page.tag != "annotation":
            raise ValueError(f"it begins with <{page.tag}>, not with <annotation>")
        objects = [_read_object(each) for each in page.iter("object")]
        size = _read_size(page)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # LookupError: its encoding
        raise ValueError(f"{path} is no VOC annotation: {error}") from error
    return VocPage(path, page.findtext("filename"), size, objects)


def _read_size(page: ElementTree.Element) -> tuple[int, int] | None:
    if page.find("size") is None:
        return None
    height, width = (_pixels(page, f"size/{edge}") for edge in ("height", "width"))
    if height * width >= _MOST_PIXELS:
        raise ValueError(f"its <size> is {height:.3g} x {width:.3g} pixels (height x width)")
    return (height, width) if height > 0 and width > 0 else None


def _pixels(page: ElementTree.Element, tag: str) -> int:
    number = _number(page, tag)
    if number % 1:
        raise ValueError(f"<{tag}> must be a whole number of pixels, but is {number:g}")
    return int(number)


def _read_object(entry: ElementTree.Element) -> VocObject:
    name = _text(entry, "name")
    boxes = len(entry.findall("bndbox"))
    if boxes > 1:
        raise ValueError(f"<{entry.tag}> has {boxes} <bndbox>; make an object of each")
    x1, y1, x2, y2 = (_number(entry, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
    box = (x1 - 1, y1 - 1, _extent(x1, x2), _extent(y1, y2))
    return VocObject(name, box, _is_difficult(entry))


def _is_difficult(entry: ElementTree.Element) -> bool:
    text = (entry.findtext("difficult") or "").strip()
    if text.lower() not in _FLAGS:
        raise ValueError(f"<difficult> of <{entry.tag}> must be 0 or 1, but is {text!r:.80}")
    return _FLAGS[text.lower()]


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
    number = read_number(text)
    if not math.isfinite(number):
        raise ValueError(f"<{tag}> of <{entry.tag}> must be a number, but is {excerpt(text)}")
    return number

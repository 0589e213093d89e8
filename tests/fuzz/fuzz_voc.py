"""PASCAL VOC's xml and lists of images: read and salvaged, and never a DTD.

An input is a page, and behind a line of ==== the split's list.
"""

import re
from pathlib import Path
from random import Random

from driver import Target, fuzz, instrumented, outcome
from mutation import mutated_words
from PIL import Image

with instrumented():
    from detengine.data.salvage_voc import salvage_voc
    from detengine.data.voc import load_voc

from truth import check_salvage, raise_if_impossible

LINE = b"\n====\n"
WORD = re.compile(rb"<[^>]*>|[\w.+-]+|\s+|.", re.DOTALL)
WORDS = (
    b"<object>", b"</object>", b"<name>", b"</name>", b"<bndbox>", b"<size>", b"<filename>",
    b"1e300", b"-1", b"nan", b"99999999999", b"<part>", b"<object/>", b"<size/>", b"<!-- -->",
    b"<![CDATA[x]]>", b"<!DOCTYPE a>", b'<!DOCTYPE a [<!ENTITY b "cc">]>', b"&b;", b"&amp;",
    b"&#0;", b"&#x110000;", b"\0", b'<?xml version="1.0" encoding="utf-7"?>',
    b'<?xml version="1.0" encoding="nonsense"?>', b'<?xml version="1.0" encoding="utf-16"?>',
    b"<?xml version='1.1'?>", b"\xff\xfe", b"\xef\xbb\xbf", b"<a>" * 3000, b"x" * 4000, b"/",
    b"../a", b"\xc3\xa9", b"\xe2\x80\xa8", b"1_0", b"0x10", LINE, b"\xff",
)  # fmt: skip
OBJECT = (
    b"<object><name>cat</name><difficult>0</difficult><bndbox><xmin>2</xmin><ymin>3</ymin>"
    b"<xmax>8</xmax><ymax>9.5</ymax></bndbox></object>"
)
SIZE = b"<size><width>10</width><height>12</height><depth>3</depth></size>"


def seeds() -> list[bytes]:
    page = b"<annotation><filename>a.png</filename>%s</annotation>"
    part = b"<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
    return [
        page % (SIZE + OBJECT) + LINE + b"a\nb\n",
        page % (OBJECT + OBJECT.replace(b"</object>", part)) + LINE + b"a",
        b'<?xml version="1.0" encoding="utf-8"?>\n' + page % OBJECT.replace(b"cat", b"dog"),
        page % b"" + LINE + b"b\r\na\r\n",
    ]


def check(data: bytes, folder: Path) -> None:
    page, _, names = data.partition(LINE)
    _lay_out(folder, page, names or b"a\nb\n")
    for classes in (None, ["cat"]):
        _check_classes(folder, classes)


def _check_classes(folder: Path, classes: list[str] | None) -> None:
    read = outcome(lambda: load_voc(folder, "t", classes, "d"), str(folder))
    if read is not None:
        raise_if_impossible(read)
    check_salvage(
        read,
        lambda problems: salvage_voc(folder, "t", classes, "d", problems),
        str(folder),
    )


def _lay_out(folder: Path, page: bytes, names: bytes) -> None:
    for part in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name in ("a", "b"):
        picture = folder / "JPEGImages" / f"{name}.png"
        if not picture.exists():
            Image.new("L", (10, 12)).save(picture)
    (folder / "Annotations/a.xml").write_bytes(page)
    (folder / "Annotations/b.xml").write_bytes(b"<annotation>" + OBJECT + b"</annotation>")
    (folder / "ImageSets/Main/t.txt").write_bytes(names)


def mutate(data: bytes, generator: Random) -> bytes:
    return mutated_words(data, generator, WORD, WORDS)


TARGET = Target("voc", seeds, check, mutate)

if __name__ == "__main__":
    fuzz(TARGET)

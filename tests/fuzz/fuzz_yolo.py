"""YOLO's labels, lists of images and data.yaml: read, salvaged, recognised.

An input is labels, and behind a line of ==== the list, and behind another one data.yaml.
"""

import re
from pathlib import Path
from random import Random

from driver import Target, fuzz, instrumented, outcome
from mutation import mutated_words
from PIL import Image

with instrumented():
    from detengine.data.recognition import recognise
    from detengine.data.salvage_yolo import salvage_yolo
    from detengine.data.yolo import load_yolo

from truth import check_salvage, raise_if_impossible

CLASSES = ("cat", "dog")
LINE = b"\n====\n"
WORD = re.compile(rb"[\w.+-]+|[ \t]+|\s|.", re.DOTALL)
WORDS = (
    b"0", b"1", b"2", b"-1", b"0.5", b"1.005", b"1.5", b"nan", b"inf", b"1e300", b"1_0", b"0x1",
    b"\n", b" ", b"\0", b"\xff", b"\xe2\x80\xa8", b"\xef\xbc\x91", b"\x1c", b"\xef\xbb\xbf",
    b"9" * 400, b"9" * 5000, b"images/a.png", b"../images/a.png", b"/", b"train:",
    b"names:", b"nc:", b"path:", b"[", b"]", b"{", b"}", b"- ", b"&a", b"*a", b"<<:", b"!!int",
    b"2001-99-99", b"kpt_shape: [1, 2]", b"x" * 4000, b"[" * 1100, b"null", LINE,
    b"0.1 0.1 0.9 0.1 0.9 0.9",
)  # fmt: skip


def seeds() -> list[bytes]:
    listed = b"images/a.png\nimages/b.png\n"
    described = b"path: .\ntrain: images\nval: images\nnc: 2\nnames: [cat, dog]\n"
    numbered = b"train: images\nnames:\n  0: cat\n  1: dog\n"
    labels = (b"0 0.5 0.5 0.25 0.5\n", b"1 0.1 0.1 0.9 0.1 0.9 0.9\n\n0 0 0 0 0\n", b"")
    return [LINE.join((label, listed, text)) for label in labels for text in (described, numbered)]


def check(data: bytes, folder: Path) -> None:
    label, names, text = (*data.split(LINE), b"", b"")[:3]
    _lay_out(folder, label, names or b"images/a.png\nimages/b.png\n", text)
    for images in (folder / "images", folder / "list.txt"):
        _check_images(images, str(folder))
    if text:
        outcome(lambda: recognise(folder), folder.name)


def _check_images(images: Path, named: str) -> None:
    read = outcome(lambda: load_yolo(images, None, CLASSES, "d")[0], named)
    if read is not None:
        raise_if_impossible(read)
    check_salvage(
        read, lambda problems: salvage_yolo(images, None, CLASSES, "d", problems)[0], named
    )


def _lay_out(folder: Path, label: bytes, names: bytes, text: bytes) -> None:
    for part in ("images", "labels"):
        (folder / part).mkdir(exist_ok=True)
    for name in ("a", "b"):
        picture = folder / "images" / f"{name}.png"
        if not picture.exists():
            Image.new("L", (10, 12)).save(picture)
    (folder / "labels/a.txt").write_bytes(label)
    (folder / "list.txt").write_bytes(names)
    (folder / "data.yaml").write_bytes(text)


def mutate(data: bytes, generator: Random) -> bytes:
    return mutated_words(data, generator, WORD, WORDS)


TARGET = Target("yolo", seeds, check, mutate)

if __name__ == "__main__":
    fuzz(TARGET)

"""Names of files and classes that are unusual, and such as nobody can have meant."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from faults.broken_inputs import (
    Break,
    Case,
    Harmless,
    Promise,
    Refused,
    change_json,
    replaced,
)


def file_called(name: str, *, inside: str = "images") -> Break:
    """The first image has this name, on the disk and in the json."""

    def spoil(folder: Path) -> None:
        path = folder / inside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (folder / "images/a.jpg").rename(path)
        change_json("images", 0, file_name=name)(folder)

    return spoil


def class_called(name: str) -> Break:
    return change_json("categories", 0, name=name)


def _absolute(folder: Path) -> None:
    change_json("images", 0, file_name="/proc/self/cwd/images/a.jpg")(folder)


def _outside(folder: Path) -> None:
    (folder / "images/a.jpg").rename(folder / "outside.jpg")
    change_json("images", 0, file_name="../outside.jpg")(folder)


FILES = {
    "a space": "a b.jpg",
    "spaces around": " a .jpg",
    "quotes": "a'b\"c.jpg",
    "a dollar": "$HOME `id`.jpg",
    "a percent sign": "%s %d {0}.jpg",
    "brackets": "[bold]a[/bold].jpg",
    "a hash": "a#1?x=2&y.jpg",
    "a backslash": "a\\b.jpg",
    "a dash first": "-rf.jpg",
    "a dot first": ".a.jpg",
    "an emoji": "\U0001f600.jpg",
    "right to left": "\u05d0\u05d1.jpg",
    "a letter in two parts": "e\u0301.jpg",
    "a line break": "a\nb.jpg",
    "a control character": "a\x1b[31m.jpg",
    "255 bytes": "a" * 251 + ".jpg",
    "a folder": "deep/er/a.jpg",
    "no suffix": "a",
}


def _files() -> Iterator[Case]:
    for what, name in FILES.items():
        spoil = file_called(name)
        yield Case(f"file name with {what}", "coco", spoil, Harmless(like=spoil))
    for what, spoil in (("absolute", _absolute), ("outside of the folder", _outside)):
        yield Case(f"file name {what}", "coco", spoil, Harmless(like=spoil))
    given: list[tuple[str, str, Promise]] = [
        ("empty", "", Refused(r"image|a\.json")),
        ("a folder", ".", Refused(r"image")),
        ("NUL bytes", "a\0.jpg", Refused(r"a\\x00\.jpg|a\x00\.jpg")),
        ("too long", "a" * 5000 + ".jpg", Refused(r"aaaa.*too long|image")),
        ("that goes through a file", "b.jpg/a.jpg", Refused(r"b\.jpg/a\.jpg|a\.jpg")),
        ("a link to itself", "loop/a.jpg", Refused(r"loop")),
    ]
    for what, name, promise in given:
        for place in (0, 2):  # the first is looked for at once, the last when it is read
            spoil = change_json("images", place, file_name=name)
            yield Case(f"file name {what}, image {place}", "coco", spoil, promise)
    yield Case("file name in Latin-1", "yolo", _latin, Refused(r"d\\xebsc\.jpg.*UTF-8|UTF-8"))
    yield Case("xml name in Latin-1", "voc", _latin_page, Refused(r"UTF-8"))


def _latin(folder: Path) -> None:
    for place in ("images/a.jpg", "labels/a.txt"):
        path = folder / place
        path.rename(path.with_name(os.fsdecode(b"d\xebsc") + path.suffix))


def _latin_page(folder: Path) -> None:
    """The image that a page is about has such a name, and its list is not read."""
    path = folder / "JPEGImages/a.jpg"
    path.rename(path.with_name(os.fsdecode(b"a.d\xebsc")))


CLASSES = {
    "a space": "a b",
    "spaces around": " disc ",
    "quotes": "a'b\"c",
    "a slash": "a/b",
    "a percent sign": "%s %(message)s {0}",
    "marks of rich": "[bold red]disc[/]",
    "html": "<script>alert(1)</script>",
    "an emoji": "\U0001f600",
    "an emoji in parts": "\U0001f469\u200d\U0001f680",
    "right to left": "\u05d0\u05d1",
    "a letter in two parts": "e\u0301",
    "1000 letters": "a" * 1000,
    "what YAML takes for something else": "null",
}


def _classes() -> Iterator[Case]:
    for what, name in CLASSES.items():
        yield Case(
            f"class name with {what}", "coco", class_called(name), Harmless(like=class_called(name))
        )
    for what, name in (
        ("empty", ""),
        ("of 100,000 letters", "a" * 100_000),
        ("spaces only", "   "),
        ("with a line break", "di\nsc"),
        ("with a carriage return", "disc\r"),
        ("with a tab", "di\tsc"),
        ("that commands the terminal", "di\x1b[31msc"),
        ("with NUL", "di\0sc"),
        ("with a bell of 8 bits", "di\x9bsc"),
        ("with a line separator", "di\u2028sc"),
    ):
        yield Case(
            f"class name {what}",
            "coco",
            class_called(name),
            Refused(r"class name|'name' of category 0"),
        )
    page = replaced("Annotations/a.xml", "<name>disc", "<name>di\nsc")
    yield Case("class name of VOC with a line break", "voc", page, Refused(r"unknown class 'di"))


def _overridden() -> Iterator[Case]:
    for what, name in (("empty", ""), ("with a line break", "di\nsc"), ("twice", "bar")):
        overrides = ("DATASETS.DEFINE.t.CLASSES", json.dumps([name, "bar"]))
        promise = Refused(r"class name|'bar' twice")
        yield Case(f"CLASSES {what}", "yolo", lambda folder: None, promise, overrides)


CASES = [*_files(), *_classes(), *_overridden()]

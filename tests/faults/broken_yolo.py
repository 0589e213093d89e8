"""YOLO's label files, lists and data.yaml with one thing broken."""

import os
from collections.abc import Iterator
from pathlib import Path

from faults.broken_inputs import (
    Break,
    Case,
    Counted,
    Harmless,
    Promise,
    Refused,
    both,
    replaced,
    rewrite,
    write,
)

FILE = "labels/a.txt"
SOUND = "0 0.5 0.5 0.4 0.4\n1 0.25 0.25 0.25 0.25\n"


def _lines() -> Iterator[Case]:
    no_number = Refused(r"a\.txt:2: .* is no number")
    given: list[tuple[str, str, Promise]] = [
        ("4 numbers", "0 0.5 0.5 0.2", Refused(r"a\.txt:2: 3 numbers stand behind the class")),
        ("6 numbers", "0 0.5 0.5 0.2 0.2 0.9", Refused(r"a\.txt:2: 5 numbers .*a score")),
        ("an odd outline", "0 .1 .1 .2 .1 .2 .2 .3", Refused(r"a\.txt:2: 7 numbers stand")),
        ("a class alone", "0", Refused(r"a\.txt:2: 0 numbers stand behind the class")),
        ("a negative class", "-1 0.5 0.5 0.2 0.2", Refused(r"a\.txt:2: the class -1 is none")),
        ("a class beyond", "2 0.5 0.5 0.2 0.2", Refused(r"a\.txt:2: the class 2 is none of the 2")),
        ("half a class", "0.5 0.5 0.5 0.2 0.2", Refused(r"a\.txt:2: the class '0.5' is no whole")),
        ("a class of 1e300", "1e300 0.5 0.5 0.2 0.2", Refused(r"a\.txt:2: the class 1e300")),
        ("a name", "disc 0.5 0.5 0.2 0.2", no_number),
        ("nan", "0 nan 0.5 0.2 0.2", no_number),
        ("inf", "0 0.5 0.5 inf 0.2", no_number),
        ("comma decimals", "0 0,5 0,5 0,2 0,2", no_number),
        ("commas between", "0,0.5,0.5,0.2,0.2", no_number),
        ("grouped digits", "0 0_0.5 0.5 0.2 0.2", no_number),
        ("digits of another script", "0 \u0660.\u0665 0.5 0.2 0.2", no_number),
        ("pixels", "0 20 15 8 6", Refused(r"a\.txt:2: 20 is not between 0 and 1.*pixels")),
        ("a negative size", "0 0.5 0.5 -0.005 0.2", Refused(r"a\.txt:2: .*negative size")),
        ("a centre outside", "0 -0.5 0.5 0.2 0.2", Refused(r"a\.txt:2: -0.5 is not between")),
        ("NUL bytes", "0 0.5\0 0.5 0.2 0.2", no_number),
        ("a comment", "# drawn by hand", no_number),
        ("html", "<html>404</html>", no_number),
    ]
    for name, line, promise in given:
        content = SOUND.replace("\n", f"\n{line}\n", 1)
        yield Case(f"line: {name}", "yolo", write(FILE, content), promise)
    beyond = write(FILE, SOUND.replace("0 0.5 0.5 0.4", "0 0.9 0.5 0.4"))
    out = Counted(r"1 (of 6 )?annotations? .*reach.* out of (their|its) image")
    yield Case("line: a box that reaches out", "yolo", beyond, out)
    flat = write(FILE, SOUND.replace("0 0.5 0.5 0.4", "0 0.5 0.5 0"))
    promise = Counted(r"1 (of 6 )?annotations? .*(without area|without width or height)")
    yield Case("line: a box without width", "yolo", flat, promise)
    twice = write(FILE, SOUND + SOUND)
    yield Case("line: twice", "yolo", twice, Counted(r"2 annotations that stand twice"))
    with_float = write(FILE, SOUND.replace("0 0.5 0.5", "0.0 0.5 0.5", 1))
    yield Case("line: a class as 0.0", "yolo", with_float, Harmless())


def _files() -> Iterator[Case]:
    one_empty = Counted(r"1 (image )?of 3 (images )?(without annotations|have no label file)")
    given: list[tuple[str, Break, Promise]] = [
        ("byte order mark", rewrite(FILE, lambda d: b"\xef\xbb\xbf" + d), Harmless()),
        ("Latin-1", write(FILE, SOUND.encode() + b"# \xeb"), Refused(r"a\.txt is no text")),
        ("UTF-16", write(FILE, SOUND.encode("utf-16")), Refused(r"a\.txt is no text")),
        ("line ends of Windows", write(FILE, SOUND.replace("\n", "\r\n")), Harmless()),
        ("line ends of old Macs", write(FILE, SOUND.replace("\n", "\r")), Harmless()),
        ("empty lines", write(FILE, "\n\n" + SOUND.replace("\n", "\n\n")), Harmless()),
        ("tabs", write(FILE, SOUND.replace(" ", "\t")), Harmless()),
        ("empty", write(FILE, ""), one_empty),
        ("not there", lambda folder: (folder / FILE).unlink(), one_empty),
        ("a directory", _in_its_place("directory"), Refused(r"a\.txt is no file")),
        ("a fifo", _in_its_place("fifo"), Refused(r"a\.txt is no file")),
        ("a link to nowhere", _in_its_place("link"), Refused(r"a\.txt")),
        ("no label", _without_labels, Refused(r"none of the 3 images .*has a label file")),
        ("an image that is none", write("images/a.jpg", "x"), Refused(r"a\.jpg cannot be read")),
        ("images in a circle", _circle, Harmless()),
        ("images in two circles", _circles, Harmless()),
    ]
    yield from (Case(f"labels: {name}", "yolo", spoil, promise) for name, spoil, promise in given)


def _in_its_place(make: str) -> Break:
    def spoil(folder: Path) -> None:
        path = folder / FILE
        path.unlink()
        if make == "directory":
            path.mkdir()
        elif make == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to("nowhere.txt")

    return spoil


def _without_labels(folder: Path) -> None:
    for name in "abc":
        (folder / f"labels/{name}.txt").unlink()


def _circle(folder: Path) -> None:
    (folder / "images/again").symlink_to(".")


def _circles(folder: Path) -> None:
    """Of which there are 2**40 ways, each 40 folders deep."""
    for name in ("this", "that"):
        (folder / f"images/{name}").symlink_to(".")


def _lists() -> Iterator[Case]:
    listed = ("DATASETS.DEFINE.t.IMAGES", "list.txt")
    sound = "images/a.jpg\nimages/b.jpg\nimages/c.jpg\n"
    given: list[tuple[str, str | bytes, Promise]] = [
        ("as it should be", sound, Harmless(like=write("list.txt", sound))),
        ("byte order mark", "\ufeff" + sound, Harmless(like=write("list.txt", sound))),
        ("Latin-1", sound.encode() + b"d\xebsc.jpg\n", Refused(r"list\.txt.*UTF-8")),
        ("UTF-16", sound.encode("utf-16"), Refused(r"list\.txt.*UTF-8")),
        ("an image twice", sound + "images/a.jpg\n", Refused(r"'?images/a\.jpg'? stands")),
        ("an image that is not there", sound + "images/d.jpg\n", Refused(r"list\.txt:4 names")),
        ("a folder", sound + "images\n", Refused(r"list\.txt:4 names")),
        ("NUL bytes", sound + "images\0/d.jpg\n", Refused(r"list\.txt:4 is no name")),
        ("a line of 10,000", sound + "d" * 10_000 + "\n", Refused(r"list\.txt:4 is no name")),
        ("empty", "", Refused(r"no images")),
    ]
    for name, content, promise in given:
        label_of_list = both(write("list.txt", content))
        overrides = (*listed, "DATASETS.DEFINE.t.LABELS", "null")
        yield Case(f"list: {name}", "yolo", label_of_list, promise, overrides)


def _descriptions() -> Iterator[Case]:
    """Of a folder that is recognised by its data.yaml."""
    sound = "train: train/images\nval: val/images\nnc: 2\nnames: [disc, bar]\n"
    damaged = Refused(r"data\.yaml is no valid YAML")
    names = Refused(r"data\.yaml.*`names`")
    given: list[tuple[str, str | bytes, Promise]] = [
        ("a tag of Python's", sound + "x: !!python/object/apply:os.system ['true']\n", damaged),
        ("a tag that is none", sound + "x: !mine 5\n", damaged),
        ("an alias", sound + "x: &a [1]\ny: *a\n", damaged),
        ("a bomb of aliases", sound + alias_bomb(), damaged),
        ("tabs", "train:\ttrain/images\n\tval: x\n", damaged),
        ("100,000 brackets", sound + "x: " + "[" * 100_000, damaged),
        ("Latin-1", sound.replace("disc", "d\u00ebsc").encode("latin-1"), damaged),
        ("NUL bytes", sound + "\0", damaged),
        ("a key twice", sound + "names: [bar, disc]\n", Refused(r"data\.yaml.*names.*twice")),
        ("a number twice", sound.replace("[disc, bar]", "{0: disc, 0: bar, 1: bar}"),
         Refused(r"data\.yaml.*0.*twice")),
        ("two documents", sound + "---\n" + sound, damaged),
        ("names a text", sound.replace("[disc, bar]", "disc"), names),
        ("names null", sound.replace("[disc, bar]", ""), names),
        ("names empty", sound.replace("[disc, bar]", "[]"), names),
        ("a name null", sound.replace("disc", "null"), names),
        ("a name a list", sound.replace("disc", "[disc]"), names),
        ("no and yes", sound.replace("disc, bar", "no, yes"), names),
        ("a name a date", sound.replace("disc", "2020-01-01"), names),
        ("a name a fraction", sound.replace("disc", "1.50"), names),
        ("a name twice", sound.replace("disc", "bar"), Refused(r"bar")),
        ("a name empty", sound.replace("disc", "''"), Refused(r"name")),
        ("numbers that leave one out", sound.replace("[disc, bar]", "{0: disc, 2: bar}"), names),
        ("too few", sound.replace("nc: 2", "nc: 3"), Refused(r"data\.yaml: `nc` is 3")),
        ("nc a text", sound.replace("nc: 2", "nc: two"), Refused(r"data\.yaml: `nc` is two")),
        ("no train", sound.replace("train:", "trained:"), Refused(r"names no images to train on")),
        ("train a number", sound.replace("train/images", "5"), Refused(r"`train` is '5'")),
        ("train is not there", sound.replace("train/images", "x"), Refused(r"`train` is 'x'")),
        ("train leads out", sound.replace("train/images", "/etc"), Refused(r"`train` is '/etc'")),
        ("no val", sound.replace("val:", "vals:"), Harmless(like=write("data.yaml",
         sound.replace("val:", "vals:")))),
        ("keypoints", sound + "kpt_shape: [17, 3]\n", Refused(r"kpt_shape")),
        ("numbers in another order", sound.replace("[disc, bar]", "{1: bar, 0: disc}"), Harmless()),
        ("byte order mark", "\ufeff" + sound, Harmless()),
        ("empty", "", Refused(r"no names of their classes")),
    ]  # fmt: skip
    for name, content, promise in given:
        yield Case(f"data.yaml: {name}", "folder", write("data.yaml", content), promise)
    for part in range(1, 10):
        content = sound[: len(sound) * part // 10]
        cut = write("data.yaml", content)
        # a shorter YAML file may be a sound one, but it lacks a key or a place then
        yield Case(f"data.yaml cut at {part} of 10", "folder", cut, Refused(r"data\.yaml|names"))
    for name, content in (("a fifo", None), ("a link to zeros", "/dev/zero")):
        spoil = _beside(content)
        yield Case(f"beside data.yaml {name}.json", "folder", spoil, Harmless())
    names_in_latin = both(write("data.yaml", ""), write("classes.txt", b"d\xebsc\nbar\n"))
    promise = Refused(r"classes\.txt.*UTF-8")
    yield Case("classes.txt in Latin-1", "folder", names_in_latin, promise)
    circle = both(_folder_circle)
    yield Case("the folder in itself", "folder", circle, Harmless())


def alias_bomb() -> str:
    lines = ["a: &l0 [lol]"]
    lines += [f"b{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(lines) + "\n"


def _beside(target: str | None) -> Break:
    def spoil(folder: Path) -> None:
        path = folder / "notes.json"
        os.mkfifo(path) if target is None else path.symlink_to(target)

    return spoil


def _folder_circle(folder: Path) -> None:
    (folder / "train/again").symlink_to("..")


CASES = [*_lines(), *_files(), *_lists(), *_descriptions()]
CASES = [*CASES, Case("labels: as they should be", "yolo", replaced(FILE, "0", "0"), Harmless())]

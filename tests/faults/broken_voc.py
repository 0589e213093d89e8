"""PASCAL VOC's xml files and lists with one thing broken."""

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
from faults.sound_inputs import PAGE, SIZES

FILE = "Annotations/a.xml"
LIST = "ImageSets/Main/train.txt"
WHOLE = PAGE.format(name="a.jpg", width=SIZES["a.jpg"][0], height=SIZES["a.jpg"][1])
NO_PAGE = Refused(r"a\.xml is no VOC annotation")


def bomb() -> str:
    """A billion laughs."""
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    text = WHOLE.replace("disc", "&l9;")
    return f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY l0 "lol">{entities}]>{text}'


def with_doctype(declared: str, text: str = "&x;") -> Break:
    return write(FILE, f"<!DOCTYPE a [{declared}]>" + WHOLE.replace("disc", text))


def declared_as(encoding: str, content: str = WHOLE, *, written: str = "utf-8") -> Break:
    head = f'<?xml version="1.0" encoding="{encoding}"?>'
    return write(FILE, (head + content).encode(written))


def _forms() -> Iterator[Case]:
    for part in range(20):
        content = WHOLE[: len(WHOLE) * part // 20]
        yield Case(f"xml cut at {part} of 20", "voc", write(FILE, content), NO_PAGE)
    no_dtd = Refused(r"a\.xml is no VOC annotation: it has a document type definition")
    given: list[tuple[str, Break, Promise]] = [
        ("a billion laughs", write(FILE, bomb()), no_dtd),
        ("an external entity", with_doctype('<!ENTITY x SYSTEM "file:///etc/passwd">'), no_dtd),
        ("an entity of the network", with_doctype('<!ENTITY x SYSTEM "http://[::1]/">'), no_dtd),
        ("an entity of parameters", with_doctype('<!ENTITY % p SYSTEM "file:///x">%p;'), no_dtd),
        ("a DTD elsewhere", write(FILE, '<!DOCTYPE a SYSTEM "a.dtd">' + WHOLE), no_dtd),
        ("an unknown entity", replaced(FILE, "disc", "&x;"), NO_PAGE),
        ("an encoding that is none", declared_as("klingon"), NO_PAGE),
        ("an encoding of no text", declared_as("rot13"), NO_PAGE),
        ("UTF-16 declared, UTF-8 written", declared_as("utf-16"), NO_PAGE),
        ("UTF-16", declared_as("utf-16", written="utf-16"), Harmless()),
        ("UTF-8 declared, Latin-1 written",
         declared_as("utf-8", WHOLE.replace("disc", "d\u00ebsc"), written="latin-1"), NO_PAGE),
        ("Shift-JIS", declared_as("shift_jis"), NO_PAGE),
        ("byte order mark", rewrite(FILE, lambda d: b"\xef\xbb\xbf" + d), Harmless()),
        ("NUL bytes", rewrite(FILE, lambda d: d + b"\0"), NO_PAGE),
        ("trailing garbage", rewrite(FILE, lambda d: d + b"garbage"), NO_PAGE),
        ("two pages", rewrite(FILE, lambda d: d + d), NO_PAGE),
        ("a character that is none", replaced(FILE, "disc", "&#0;"), NO_PAGE),
        ("another root", write(FILE, "<html><body>404</body></html>"), NO_PAGE),
        ("a namespace", replaced(FILE, "<annotation>", '<annotation xmlns="urn:x">'), NO_PAGE),
        ("20,000 tags deep", write(FILE, "<annotation>" * 20_000), NO_PAGE),
        ("20,000 closed tags deep", write(FILE,
         "<annotation>" + "<a>" * 20_000 + "</a>" * 20_000 + "</annotation>"),
         Harmless(like=write(FILE, "<annotation/>"))),
        ("json", write(FILE, "{}"), NO_PAGE),
        ("not there", lambda folder: (folder / FILE).unlink(), Refused(r"a\.xml does not exist")),
        ("a directory", _as_directory, Refused(r"a\.xml does not exist")),
        ("no object", write(FILE, "<annotation/>"), Counted(r"1 image of 3 without annotations")),
    ]  # fmt: skip
    yield from (Case(f"xml: {name}", "voc", spoil, promise) for name, spoil, promise in given)


def _as_directory(folder: Path) -> None:
    (folder / FILE).unlink()
    (folder / FILE).mkdir()


def _values() -> Iterator[Case]:
    box = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>24</xmax><ymax>24</ymax></bndbox>"
    given: list[tuple[str, str, str, Promise]] = [
        ("no bndbox", box, "", Refused(r"a\.xml is no VOC .*<object> has no <bndbox/xmin>")),
        ("no xmax", "<xmax>24</xmax>", "", Refused(r"a\.xml .*has no <bndbox/xmax>")),
        ("empty xmax", "<xmax>24<", "<xmax><", Refused(r"a\.xml .*has no <bndbox/xmax>")),
        ("no name", "<name>disc</name>", "", Refused(r"a\.xml .*<object> has no <name>")),
        ("empty name", "disc", " ", Refused(r"a\.xml .*<object> has no <name>")),
        ("an unknown name", "disc", "cone", Refused(r"a\.xml has the unknown class 'cone'")),
        ("a name with spaces around", "disc", "\n disc ", Harmless()),
        ("nan", ">24</xmax", ">nan</xmax", Refused(r"a\.xml .*bndbox/xmax.* number.*'nan'")),
        ("inf", ">24</xmax", ">inf</xmax", Refused(r"a\.xml .*bndbox/xmax.* number.*'inf'")),
        ("1e999", ">24</xmax", ">1e999</xmax", Refused(r"a\.xml .*bndbox/xmax.* number")),
        ("words", ">24</xmax", ">wide</xmax", Refused(r"a\.xml .*bndbox/xmax.* number.*'wide'")),
        ("comma decimals", ">24</xmax", ">24,5</xmax", Refused(r"a\.xml .*number.*'24,5'")),
        ("grouped digits", ">24</xmax", ">2_4</xmax", Refused(r"a\.xml .*number.*'2_4'")),
        ("hexadecimal", ">24</xmax", ">0x18</xmax", Refused(r"a\.xml .*number.*'0x18'")),
        ("a fraction", ">24</xmax", ">24.0</xmax", Harmless()),
        ("spaces around", ">24</xmax", "> 24\n</xmax", Harmless()),
        ("inverted", ">24</xmax", ">2</xmax", Refused(r"annotation 1 has a negative size")),
        ("outside", box, box.replace(">5<", ">500<").replace(">24<", ">524<"),
         Refused(r"annotation 1 lies entirely outside")),
        ("beyond the image", ">24</xmax", ">900</xmax",
         Counted(r"1 (of 3 )?annotations? .*reach.* out of (their|its) image")),
        ("a stray click", box, box.replace(">24<", ">5<"),
         Counted(r"1 (of 3 )?annotations? .*(without area|without width or height)")),
        ("difficult", "<difficult>0<", "<difficult>1<", Counted(r"1 annotation marked as diffic")),
        ("difficult true", "<difficult>0<", "<difficult>true<",
         Counted(r"1 annotation marked as difficult")),
        ("difficult false", "<difficult>0<", "<difficult>False<", Harmless()),
        ("difficult 2", "<difficult>0<", "<difficult>2<", Refused(r"a\.xml .*<difficult>")),
        ("difficult maybe", "<difficult>0<", "<difficult>maybe<",
         Refused(r"a\.xml .*<difficult>")),
        ("no difficult", "<difficult>0</difficult>", "", Harmless()),
        ("size 0", "<width>40<", "<width>0<", Harmless()),
        ("negative size", "<width>40<", "<width>-40<", Harmless()),
        ("size nan", "<width>40<", "<width>nan<", Refused(r"a\.xml .*size/width")),
        ("size a fraction", "<width>40<", "<width>40.5<", Refused(r"a\.xml .*size/width")),
        ("size without width", "<width>40</width>", "", Refused(r"a\.xml .*size/width")),
        ("another size", "<width>40<", "<width>41<", Refused(r"a\.jpg has 40 x 30 pixels")),
        ("size 1e12", "<width>40<", "<width>1e12<", Refused(r"a\.(jpg|xml)")),
        ("size 1e300", "<width>40<", "<width>1e300<", Refused(r"a\.(jpg|xml)")),
        ("two boxes", box, box + box.replace("24", "9"), Refused(r"a\.xml .*2 <bndbox>")),
        ("a stale file name", ">a.jpg<", ">old.jpg<", Harmless()),
    ]  # fmt: skip
    for name, old, new, promise in given:
        yield Case(f"xml: {name}", "voc", replaced(FILE, old, new), promise)


def _lists() -> Iterator[Case]:
    given: list[tuple[str, Break, Promise]] = [
        ("an image twice", write(LIST, "a\nb\nc\na\n"), Refused(r"image 'a' stands")),
        ("an image that is not there", write(LIST, "a\nb\nd\n"), Refused(r"d\.xml does not exist")),
        ("empty", write(LIST, ""), Refused(r"lists no images")),
        ("not there", lambda folder: (folder / LIST).unlink(), Refused(r"no split 'train'")),
        ("Latin-1", write(LIST, "a\nd\u00ebsc\n".encode("latin-1")), Refused(r"train\.txt.*UTF-8")),
        ("UTF-16", write(LIST, "a\nb\nc\n".encode("utf-16")), Refused(r"train\.txt.*UTF-8")),
        ("byte order mark", write(LIST, "\ufeffa\nb\nc\n"), Harmless()),
        ("line ends of Windows", write(LIST, "a\r\nb\r\nc\r\n"), Harmless()),
        ("NUL bytes", write(LIST, "a\0\nb\nc\n"), Refused(r"train\.txt:1 is no name")),
        ("a path that leads out", write(LIST, "../Annotations/a\nb\nc\n"), Harmless()),
        ("an absolute path", write(LIST, "/a\nb\nc\n"), Refused(r"train\.txt lists '/a'")),
        ("two columns", write(LIST, "a 1\nb -1\nc 1\n"), Refused(r"a 1\.xml does not exist")),
        ("no image", lambda folder: (folder / "JPEGImages/a.jpg").unlink(), Refused(r"a\.xml")),
        ("two images", write("JPEGImages/a.png", "x"), Harmless()),
        ("two images and no name", both(write("JPEGImages/a.png", "x"),
         replaced(FILE, "<filename>a.jpg</filename>", "")), Refused(r"a\.jpg, a\.png")),
    ]  # fmt: skip
    yield from (Case(f"list: {name}", "voc", spoil, promise) for name, spoil, promise in given)


CASES = [*_forms(), *_values(), *_lists()]
